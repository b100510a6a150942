// Command subscriber prints the events of all workers, and how many it missed,
// until it is interrupted. The environment selects the discovery backend and the
// transport of events.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/eventplane"
)

// KVEvent is what the publisher publishes. A subscriber may leave out the fields
// that it does not need.
type KVEvent struct {
	WorkerID uint64   `json:"worker_id"`
	Stored   []uint64 `json:"stored"`
	Removed  []uint64 `json:"removed"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := run(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "subscriber:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	peers, err := backend.Open(ctx, os.LookupEnv, backend.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = peers.Shutdown(ctx) }() // nothing is registered, so ctx may be done
	cfg, err := eventplane.ConfigFromEnv(os.LookupEnv)
	if err != nil {
		return err
	}
	plane, err := eventplane.New(cfg, peers)
	if err != nil {
		return err
	}
	defer func() { _ = plane.Shutdown(ctx) }()
	return subscribe(ctx, plane)
}

// README: subscribe
func subscribe(ctx context.Context, plane *eventplane.Client) error {
	scope := discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}
	sub, err := plane.Subscriber(ctx, scope, "kv-events")
	if err != nil {
		return err
	}
	for ev, err := range eventplane.Events[KVEvent](ctx, sub) {
		if _, bad := errors.AsType[*eventplane.DecodeError](err); bad {
			fmt.Fprintln(os.Stderr, err) // a message that is not a KVEvent; the stream goes on
			continue
		}
		if err != nil {
			return err
		}
		// Missed is the number of this publisher's events that were lost just before this one.
		fmt.Printf("worker %x: event %d, missed %d, stored %v, removed %v\n",
			ev.Value.WorkerID, ev.Sequence, ev.Missed, ev.Value.Stored, ev.Value.Removed)
	}
	return nil
}

// README: end
