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
		Use:   "mirror --from BACKEND --to BACKEND [endpoints|models|channels|sources [NS[/COMP[/EP]][/TOPIC]]]",
		Short: "Keep registrations of one backend present in another",
		Long: `Copy the registrations of one discovery backend to another and keep the copies up
to date, until interrupted; then remove them. Without a kind, all kinds are copied;
a scope selects as for ls. The names of backends are those of
DYN_DISCOVERY_BACKEND; the same flags and variables configure them.

Registrations that workers make in the target themselves are left alone. Copies are
not copied again, so mirrors may run in both directions. Two mirrors with the same
arguments replace each other: if one is killed, the other copies again what expired.`,
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
				s, err := parseSelection(args)
				if err != nil {
					return err
				}
				queries = s.queries()
			}
			return a.mirror(cmd.Context(), from, to, queries)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "`BACKEND` to read from")
	cmd.Flags().StringVar(&to, "to", "", "`BACKEND` to register in")
	a.pprofFlag(cmd)
	return cmd
}

func (a *app) mirror(ctx context.Context, from, to string, queries []discovery.Query) (err error) {
	a.usesNATS = from == backend.NATS || to == backend.NATS
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
			_, _ = fmt.Fprintf(a.stderr, "dynplane: in sync: %d mirrored from %s to %s, %d registered by others, %d failing\n",
				c.Mirrored, from, to, c.StandBy, c.Failing)
		},
		Logger: a.logger(),
	})
}
