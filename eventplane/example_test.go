package eventplane_test

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/natsconn"
)

// A subscriber and a publisher over a NATS connection that the program has
// already. With Config.NATS instead of NATSConn, the client dials one.
func Example() {
	url, stop, err := natstest.ForExample()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	if err := overNATS(context.Background(), url); err != nil {
		fmt.Println(err)
	}
	// Output:
	// worker-0 has 17 blocks, sequence 0, missed 0
	// worker-0 has 18 blocks, sequence 1, missed 0
}

func overNATS(ctx context.Context, url string) error {
	nc, err := nats.Connect(url, nats.ReconnectBufSize(-1), nats.PermissionErrOnSubscribe(true))
	if err != nil {
		return err
	}
	defer nc.Close()
	registry := discovery.NewClient(memory.New().Open(), discovery.Options{})
	defer func() { _ = registry.Shutdown(ctx) }()
	client, err := eventplane.New(eventplane.Config{NATSConn: nc}, registry)
	if err != nil {
		return err
	}
	defer func() { _ = client.Shutdown(ctx) }()

	scope := discovery.Scope{Namespace: "dynamo", Component: "backend"}
	sub, err := client.Subscriber(ctx, scope, "load")
	if err != nil {
		return err
	}
	if err := sub.Ready(ctx); err != nil {
		return err
	}
	pub, err := client.Publisher(ctx, scope, "load")
	if err != nil {
		return err
	}

	type load struct {
		Worker string `json:"worker"`
		Blocks int    `json:"blocks"`
	}
	for _, blocks := range []int{17, 18} {
		if err := pub.Publish(ctx, load{"worker-0", blocks}); err != nil {
			return err
		}
	}
	for ev, err := range eventplane.Events[load](ctx, sub) {
		if err != nil {
			return err
		}
		fmt.Printf("%s has %d blocks, sequence %d, missed %d\n", ev.Value.Worker, ev.Value.Blocks, ev.Sequence, ev.Missed)
		if ev.Value.Blocks == 18 {
			break
		}
	}
	return nil
}

// A subscriber that starts after its publishers begins with all events that they
// keep, and requests those that are lost on the way.
func ExampleClient_SubscriberWithOptions() {
	url, stop, err := natstest.ForExample()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	if err := fromStart(context.Background(), url); err != nil {
		fmt.Println(err)
	}
	// Output:
	// sequence 0: "one"
	// sequence 1: "two"
}

func fromStart(ctx context.Context, url string) error {
	registry := discovery.NewClient(memory.New().Open(), discovery.Options{})
	defer func() { _ = registry.Shutdown(ctx) }()
	client, err := eventplane.New(eventplane.Config{NATS: natsconn.Config{URL: url}}, registry)
	if err != nil {
		return err
	}
	defer func() { _ = client.Shutdown(ctx) }()

	scope := discovery.Scope{Namespace: "dynamo", Component: "backend"}
	pub, err := client.Publisher(ctx, scope, "words")
	if err != nil {
		return err
	}
	for _, word := range []string{"one", "two"} {
		if err := pub.Publish(ctx, word); err != nil {
			return err
		}
	}
	sub, err := client.SubscriberWithOptions(ctx, scope, "words", eventplane.SubscriberOptions{FromStart: true, Gaps: true})
	if err != nil {
		return err
	}
	for range 2 {
		ev, err := sub.Next(ctx)
		switch {
		case err != nil:
			return err
		case ev.Gap != nil:
			fmt.Printf("sequences %d to %d of publisher %d are lost\n", ev.Gap.First, ev.Gap.Last, ev.Gap.PublisherID)
			continue
		}
		var word string
		if err := ev.Decode(&word); err != nil {
			return err
		}
		fmt.Printf("sequence %d: %q\n", ev.Sequence, word)
	}
	return nil
}
