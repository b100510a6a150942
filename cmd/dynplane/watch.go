package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/discovery"
)

func newWatchCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch endpoints|models|channels|sources [NS[/COMP[/EP]][/TOPIC]]",
		Short: "Watch registrations",
		Long: `Print every current registration as added, then synced, then each change as added or
removed, until interrupted.

` + queryHelp + `

In JSON, each line is {"event":"added"|"removed","path":…,"instance":…} with the
instance as it is stored, or {"event":"synced"}.`,
		Example: `  dynplane watch channels
  dynplane watch endpoints dynamo/backend -o json`,
		Args: argCount(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := parseSelection(args)
			if err != nil {
				return err
			}
			return a.watch(cmd.Context(), s)
		},
	}
	a.pprofFlag(cmd)
	return cmd
}

func (a *app) watch(ctx context.Context, s selection) error {
	client, err := a.discover(ctx)
	if err != nil {
		return unlessDone(ctx, err)
	}
	defer func() { _ = a.shutdown(ctx, client) }()
	show := a.watchJSON
	if !a.streamsJSON() {
		show = a.watchTable(s.Kind)
	}
	for ev, err := range client.Watch(ctx, s.Query) {
		if err == nil && ev.Type != discovery.Synced && !s.match(ev.Instance.ID()) {
			continue
		}
		if err == nil {
			err = show(ev)
		}
		if err != nil {
			return unlessDone(ctx, err)
		}
	}
	return nil
}

// unlessDone returns err, or nil if err only results from a signal.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

type watchLine struct {
	Event    string `json:"event"`
	Path     string `json:"path,omitempty"`
	Instance any    `json:"instance,omitempty"`
}

func (a *app) watchJSON(ev discovery.Event) error {
	line := watchLine{Event: ev.Type.String()}
	if ev.Type != discovery.Synced {
		line.Path, line.Instance = ev.Instance.ID().Path(), stored(ev.Instance)
	}
	return a.writeJSON(line)
}

func (a *app) watchTable(k discovery.Kind) func(discovery.Event) error {
	t := newTable(a.stdout)
	t.row(append([]string{"EVENT"}, heading(k)...)...)
	return func(ev discovery.Event) error {
		cells := []string{ev.Type.String()}
		if ev.Type != discovery.Synced {
			cells = append(cells, columns(ev.Instance)...)
		}
		t.row(cells...)
		return t.Flush()
	}
}
