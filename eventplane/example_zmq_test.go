//go:build cgo && !nozmq

package eventplane_test

import (
	"context"
	"fmt"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
)

// Over ZMQ, a subscriber finds the publishers by discovery. An event is lost if
// it is published before the publisher has processed the subscription, so the
// worker of this example publishes until it is stopped.
func Example_zmq() {
	if err := overZMQ(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output: worker-0 has 17 blocks and missed 0
}

func overZMQ(ctx context.Context) error {
	registry := discovery.NewClient(memory.New().Open(), discovery.Options{})
	defer func() { _ = registry.Shutdown(ctx) }()
	client, err := eventplane.New(eventplane.Config{Transport: discovery.TransportZMQ, Host: "127.0.0.1"}, registry)
	if err != nil {
		return err
	}
	defer func() { _ = client.Shutdown(ctx) }()

	scope := discovery.Scope{Namespace: "dynamo", Component: "backend"}
	pub, err := client.Publisher(ctx, scope, "load")
	if err != nil {
		return err
	}
	sub, err := client.Subscriber(ctx, scope, "load")
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
