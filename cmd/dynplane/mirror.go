package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/discovery/mirror"
)

func newMirrorCommand(a *app) *cobra.Command {
	var from, to string
	cmd := &cobra.Command{
		Use:   "mirror --from BACKEND --to BACKEND [endpoints|models|channels|sources [NS[/COMP[/NAME]]]]",
		Short: "Keep registrations of one backend present in another",
		Long: `Keep what is registered in one discovery backend registered in another, until
interrupted; then take it back. Without a kind all are mirrored; a place selects
as it does for ls. Backends are named as in DYN_DISCOVERY_BACKEND, and set up by
the same flags and variables.

What workers register in the target themselves is left alone, and what is
mirrored already is not mirrored on: mirrors in both directions get along. Two
that do the same stand in for each other; an entry of one that was killed is
there again once it has expired.`,
		Example: `  dynplane mirror --from etcd --to nats
  dynplane mirror --from file --to nats channels dynamo/backend`,
		Args: argCount(0, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, side := range []struct{ flag, name string }{{"--from", from}, {"--to", to}} {
				if names := backend.Names(); !slices.Contains(names, side.name) {
					return usagef("%s %q: want one of %s", side.flag, side.name, strings.Join(names, ", "))
				}
			}
			if from == to {
				return usagef("--from and --to are both %s: want two backends", from)
			}
			var queries []discovery.Query
			if len(args) > 0 {
				q, err := parseQuery(args)
				if err != nil {
					return err
				}
				queries = []discovery.Query{q}
			}
			return a.mirror(cmd.Context(), from, to, queries)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "backend to read")
	cmd.Flags().StringVar(&to, "to", "", "backend to register in")
	a.pprofFlag(cmd)
	return cmd
}

func (a *app) mirror(ctx context.Context, from, to string, queries []discovery.Query) (err error) {
	var clients [2]*discovery.Client
	for i, name := range []string{from, to} {
		if clients[i], err = a.discoverIn(ctx, name); err != nil {
			return unlessDone(ctx, err)
		}
		defer func() { err = errors.Join(err, a.shutdown(ctx, clients[i])) }()
	}
	return mirror.Run(ctx, clients[0], clients[1], mirror.Options{
		Queries: queries,
		InSync: func(c mirror.Counts) {
			_, _ = fmt.Fprintf(a.stderr, "dynplane: in sync: %d mirrored from %s to %s, %d there already, %d failing\n",
				c.Mirrored, from, to, c.StandBy, c.Failing)
		},
		Logger: a.logger(),
	})
}
