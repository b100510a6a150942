package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/kvevents"
	"github.com/dynplane/dynplane/kvstate"
)

func newKVDumpCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "dump NS/COMP[/EP]/WORKER",
		Short: "Print the state of a worker",
		Long: `Request the state of all ranks of a worker and print it as the events from which it can
be built, one a line, in the JSON form of Dynamo's kv-events. The id of the worker is
in hex, as kv ls prints it. Ids of events in a dump have no meaning.`,
		Example: `  dynplane kv dump dynamo/backend/generate/2a`,
		Args:    argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, worker, err := parseKVWorker(args[0])
			if err != nil {
				return err
			}
			return a.kvDump(cmd.Context(), scope, worker)
		},
	}
}

// kvDump prints a rank when it is live. Until then its events are kept, since a
// Reset replaces them.
func (a *app) kvDump(ctx context.Context, scope discovery.Scope, worker uint64) error {
	v := kvView{}
	events := make(map[uint32][][]byte)
	err := a.followKVUntilSettled(ctx, scope, v, func(u kvstate.Update) {
		if u.Worker != worker {
			return
		}
		if u.Kind == kvstate.Reset || u.Kind == kvstate.Gone {
			delete(events, u.Rank)
		}
		v.apply(u, func(e *kvevents.Event) {
			events[u.Rank] = append(events[u.Rank], append([]byte(nil), e.Raw...))
		})
	})
	if ctx.Err() != nil {
		return err
	}
	if err == nil && len(v) == 0 {
		err = fmt.Errorf("no rank of worker %x is registered in %s: kv ls %s prints those that are", worker, scope, scope)
	}
	for key, s := range v {
		if s.trust != kvstate.Live {
			err = fmt.Errorf("rank %d is %s: %s", key.rank, s.trust, s.reason)
			continue
		}
		for _, raw := range events[key.rank] {
			line, bad := codec.AppendJSON(nil, raw)
			if bad != nil {
				return bad
			}
			if _, bad := a.stdout.Write(append(line, '\n')); bad != nil {
				return bad
			}
		}
	}
	return err
}
