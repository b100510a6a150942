package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/kvstate"
)

const kvScopeHelp = `NS/COMP/EP selects the workers whose event sources are registered there, as those of
Dynamo 1.4 and later are; NS/COMP selects workers of Dynamo up to 1.3. A worker that
answers no queries is degraded: its blocks are those of the events since the start of
this command.`

func newKVListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls NS/COMP[/EP]",
		Short: "List workers and the number of their blocks",
		Long: `Request the state of all workers, and print each rank with the number of its blocks and
how far they can be trusted: live, recovering or degraded, with the reason.

` + kvScopeHelp + `

In JSON, each line is {"worker_id","dp_rank","blocks","trust","reason"}.`,
		Example: `  dynplane kv ls dynamo/backend/generate`,
		Args:    argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, err := parseKVScope(args[0])
			if err != nil {
				return err
			}
			return a.kvList(cmd.Context(), scope)
		},
	}
}

func newKVWatchCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch NS/COMP[/EP]",
		Short: "Watch the blocks of workers",
		Long: `Follow the state of all workers and print a line for each update, until interrupted:
trust when a rank becomes live, recovering or degraded, reset when its blocks have
been replaced, change when events were applied, and gone when it is no longer
registered; synced follows the ranks that were there before.

` + kvScopeHelp + `

In JSON, each line is {"update","worker_id","dp_rank","events","blocks","trust","reason"}
with the number of blocks after the update, or {"update":"synced"}.`,
		Example: `  dynplane kv watch dynamo/backend/generate`,
		Args:    argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, err := parseKVScope(args[0])
			if err != nil {
				return err
			}
			return a.kvWatch(cmd.Context(), scope)
		},
	}
	a.pprofFlag(cmd)
	return cmd
}

// kvRankLine is a rank in JSON.
type kvRankLine struct {
	Worker uint64 `json:"worker_id"`
	Rank   uint32 `json:"dp_rank"`
	Events *int   `json:"events,omitempty"`
	Blocks int    `json:"blocks"`
	Trust  string `json:"trust"`
	Reason string `json:"reason,omitempty"`
}

type kvUpdateLine struct {
	Update string `json:"update"`
	*kvRankLine
}

func (s *kvRankState) line(key kvRank) kvRankLine {
	return kvRankLine{key.worker, key.rank, nil, s.blocks.Len(), s.trust.String(), s.reason}
}

func (l kvRankLine) cells() []string {
	return []string{strconv.FormatUint(l.Worker, 16), strconv.FormatUint(uint64(l.Rank), 10), strconv.Itoa(l.Blocks), l.Trust, l.Reason}
}

func (a *app) kvList(ctx context.Context, scope discovery.Scope) error {
	v := kvView{}
	err := a.followKVUntilSettled(ctx, scope, v, func(u kvstate.Update) { v.apply(u, nil) })
	if err != nil && !errors.Is(err, errSettle) || ctx.Err() != nil {
		return err
	}
	if len(v) == 0 && !a.streamsJSON() {
		return a.printNone(fmt.Sprintf("no worker in %s announces its KV-cache events", scope))
	}
	t := newTable(a.stdout)
	t.row("WORKER", "RANK", "BLOCKS", "TRUST", "REASON")
	for _, key := range slices.SortedFunc(maps.Keys(v), func(x, y kvRank) int {
		return cmp.Or(cmp.Compare(x.worker, y.worker), cmp.Compare(x.rank, y.rank))
	}) {
		line := v[key].line(key)
		if a.streamsJSON() {
			if err := a.writeJSON(line); err != nil {
				return err
			}
		}
		t.row(line.cells()...)
	}
	if a.streamsJSON() {
		return err
	}
	return errors.Join(t.Flush(), err)
}

func (a *app) kvWatch(ctx context.Context, scope discovery.Scope) error {
	v := kvView{}
	t := newTable(a.stdout)
	if !a.streamsJSON() {
		t.row("UPDATE", "WORKER", "RANK", "BLOCKS", "TRUST", "REASON")
	}
	return a.followKV(ctx, scope, func(u kvstate.Update) (bool, error) {
		l := kvUpdateLine{Update: u.Kind.String()}
		if u.Kind != kvstate.Synced {
			s, events := v.apply(u, nil)
			line := s.line(kvRank{u.Worker, u.Rank})
			line.Events = &events
			l.kvRankLine = &line
		}
		if a.streamsJSON() {
			return true, a.writeJSON(l)
		}
		cells := []string{l.Update}
		if l.kvRankLine != nil {
			cells = append(cells, l.cells()...)
		}
		t.row(cells...)
		return true, t.Flush()
	})
}
