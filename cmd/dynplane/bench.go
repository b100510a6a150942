package main

import (
	"time"

	"github.com/spf13/cobra"
)

func newBenchCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "bench",
		Short:   "Measure under a load that the command generates",
		Example: "  dynplane bench discovery --owners 1000 --watchers 10",
		Args:    argCount(0, 0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBenchDiscoveryCommand(a), newBenchServerCommand(a))
	return cmd
}

// benchOptions are the load of bench discovery.
type benchOptions struct {
	owners, entries, clients, watchers, watcherClients, parallel int

	kill     float64 // share of the clients
	rest     time.Duration
	rtt      time.Duration
	patience time.Duration
	monitor  string // URL, or "" for none
}

func newBenchDiscoveryCommand(a *app) *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "discovery",
		Short: "Measure registrations, watches and removals in NATS",
		Long: `Measure registrations, watches and removals in NATS.

Owners register endpoints in a namespace of their own, spread over some connections.
Watchers, each on a connection of its own unless --watcher-clients is given, begin at
the same time and follow all of these entries. After a time at rest, a share of the owners' connections is closed
without unregistering, and the watchers wait for the removals. At the end the other
owners unregister.

Without --server and NATS_SERVER the command starts a server as another process of
this program, whose requests and CPU it measures. Of another server it shows them if
--monitor is its monitoring address; CPU time is not among them.

It fails if an entry was missing, or was removed although its owner was alive, or if a
watcher has not finished in time. With -o json, stdout is the result as one object,
and stderr the progress.`,
		Example: `  dynplane bench discovery --owners 1000 --entries 3 --watchers 10
  dynplane bench discovery --owners 3000 --clients 1 --rtt 20ms --kill 0 -o json
  dynplane bench discovery --server nats://10.0.0.7:4222 --monitor http://10.0.0.7:8222`,
		Args: argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.clients == 0 {
				o.clients = (o.owners + 99) / 100
			}
			if o.watcherClients == 0 {
				o.watcherClients = o.watchers
			}
			if !cmd.Flags().Changed("rest") {
				o.rest = a.ttl
			}
			if !cmd.Flags().Changed("bucket") {
				a.bucket = "dynplane-bench"
			}
			if err := o.check(); err != nil {
				return err
			}
			return a.benchDiscovery(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.owners, "owners", 1000, "number of owners, each with an instance id")
	flags.IntVar(&o.entries, "entries", 3, "number of entries of each owner")
	flags.IntVar(&o.clients, "clients", 0, "number of connections that the owners share (default one for 100 owners)")
	flags.IntVar(&o.watchers, "watchers", 10, "number of watchers")
	flags.IntVar(&o.watcherClients, "watcher-clients", 0, "number of connections that the watchers share (default one for each)")
	flags.IntVar(&o.parallel, "parallel", 64, "number of registrations at once")
	flags.Float64Var(&o.kill, "kill", 0.1, "share of the owners' connections to close without unregistering: 0 to 1")
	flags.DurationVar(&o.rest, "rest", 0, "time at rest (default --ttl)")
	flags.DurationVar(&o.rtt, "rtt", 0, "round-trip time to add between all clients and the server")
	flags.DurationVar(&o.patience, "patience", 5*time.Minute, "bound of the wait for the watchers, for entries and for removals")
	flags.StringVar(&o.monitor, "monitor", "", "`URL` of the server's monitoring, such as http://127.0.0.1:8222")
	a.pprofFlag(cmd)
	return cmd
}

func (o benchOptions) check() error {
	for _, n := range []struct {
		flag  string
		value int
	}{{"owners", o.owners}, {"entries", o.entries}, {"clients", o.clients}, {"parallel", o.parallel}} {
		if n.value < 1 {
			return usagef("--%s %d: want 1 or more", n.flag, n.value)
		}
	}
	switch {
	case o.watchers < 0:
		return usagef("--watchers %d: want 0 or more", o.watchers)
	case o.watcherClients < 0 || o.watcherClients > o.watchers:
		return usagef("--watcher-clients %d: want at most one for each of the %d watchers", o.watcherClients, o.watchers)
	case o.clients > o.owners:
		return usagef("--clients %d: want at most one for each of the %d owners", o.clients, o.owners)
	case !(o.kill >= 0 && o.kill <= 1): // NaN included
		return usagef("--kill %v: want 0 to 1", o.kill)
	case o.rest < 0 || o.rtt < 0 || o.patience <= 0:
		return usagef("--rest %v, --rtt %v, --patience %v: want no negative time, and some patience", o.rest, o.rtt, o.patience)
	}
	return nil
}

// killed returns the number of clients to kill, which are the first ones.
func (o benchOptions) killed() int { return int(o.kill*float64(o.clients) + 0.5) }

// clientOf returns the client that registers the entries of an owner.
func (o benchOptions) clientOf(owner int) int { return owner % o.clients }

// killedEntries returns the number of entries of the killed clients.
func (o benchOptions) killedEntries() (n int) {
	for owner := range o.owners {
		if o.clientOf(owner) < o.killed() {
			n += o.entries
		}
	}
	return n
}
