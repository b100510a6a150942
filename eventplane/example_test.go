//go:build cgo && !nozmq

package eventplane_test

import (
	"context"
	"fmt"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
)

// A worker publishes, and a subscriber that finds it by discovery hears. Over
// NATS the same program has no more than another Config.
func Example() {
	if err := run(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output: worker-0 has 17 blocks and missed 0
}

func run(ctx context.Context) error {
	registry := discovery.NewClient(memory.New().Open(), discovery.Options{})
	defer func() { _ = registry.Shutdown(ctx) }()
	plane, err := eventplane.New(eventplane.Config{Transport: discovery.TransportZMQ, Host: "127.0.0.1"}, registry)
	if err != nil {
		return err
	}
	defer func() { _ = plane.Shutdown(ctx) }()

	scope := discovery.Scope{Namespace: "dynamo", Component: "backend"}
	pub, err := plane.Publisher(ctx, scope, "load")
	if err != nil {
		return err
	}
	sub, err := plane.Subscriber(ctx, scope, "load")
	if err != nil {
		return err
	}

	type load struct {
		Worker string `json:"worker"`
		Blocks int    `json:"blocks"`
	}
	working, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for working.Err() == nil {
			_ = pub.Publish(working, load{"worker-0", 17})
		}
	}()
	defer func() { <-done }()
	defer stop()
	for ev, err := range eventplane.Events[load](ctx, sub) {
		if err != nil {
			return err
		}
		fmt.Println(ev.Value.Worker, "has", ev.Value.Blocks, "blocks and missed", ev.Missed)
		break
	}
	return nil
}
