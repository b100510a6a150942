// Command router keeps an index of what each worker has cached, and prints its
// choice of a worker for a prompt whenever that changes. The environment selects
// the discovery backend and the transport of events.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/eventplane"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := run(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "router:", err)
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

	workers := &index{prompt: []uint64{0, 1, 2, 3, 4, 5, 6, 7}, workers: map[uint64]*worker{}}
	ctx, cancel := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	running.Go(func() { cancel(watch(ctx, peers, workers.add, workers.remove)) })
	running.Go(func() { cancel(follow(ctx, plane, workers)) })
	running.Wait() // the first to fail ends the other
	return context.Cause(ctx)
}

// README: watch
func watch(ctx context.Context, peers *discovery.Client, added, removed func(worker uint64)) error {
	for ev, err := range peers.Watch(ctx, discovery.Query{Kind: discovery.KindEndpoint}) {
		if err != nil {
			return err
		}
		fmt.Println(ev) // "added dynamo/backend/generate/2a", …, "synced", then each change
		switch ev.Type {
		case discovery.Added: // a new endpoint, or a new value of a known one
			added(ev.Instance.InstanceID)
		case discovery.Removed:
			removed(ev.Instance.InstanceID)
		case discovery.Synced: // every endpoint that was registered before the watch has been added
		}
	}
	return nil
}

// README: end

// follow passes the events of all workers to the index.
func follow(ctx context.Context, plane *eventplane.Client, workers *index) error {
	scope := discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}
	sub, err := plane.Subscriber(ctx, scope, "kv-events")
	if err != nil {
		return err
	}
	for ev, err := range eventplane.Events[KVEvent](ctx, sub) {
		if _, bad := errors.AsType[*eventplane.DecodeError](err); bad {
			continue // a message that is not a KVEvent; the stream goes on
		}
		if err != nil {
			return err
		}
		workers.update(ev)
	}
	return nil
}
