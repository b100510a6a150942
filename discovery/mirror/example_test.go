package mirror_test

import (
	"context"
	"fmt"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/discovery/mirror"
)

// Workers register in one registry and routers read another. In a program the two
// clients of the mirror are of different backends, such as etcd and natskv.
func Example() {
	workers, routers := memory.New(), memory.New()
	from := discovery.NewClient(workers.Open(), discovery.Options{})
	to := discovery.NewClient(routers.Open(), discovery.Options{})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- mirror.Run(ctx, from, to, mirror.Options{}) }()

	worker := discovery.NewClient(workers.Open(), discovery.Options{InstanceID: 42})
	_, err := worker.Register(ctx, discovery.Endpoint{
		Scope:     discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"},
		Transport: discovery.TCP("10.0.0.7:41231/2a/generate"),
	})
	if err != nil {
		fmt.Println(err)
	}

	router := discovery.NewClient(routers.Open(), discovery.Options{})
	for ev, err := range router.Watch(context.Background(), discovery.Query{Kind: discovery.KindEndpoint}) {
		if err != nil {
			fmt.Println(err)
			break
		}
		if ev.Type != discovery.Synced {
			fmt.Println(ev)
		}
		if ev.Type == discovery.Added {
			stop() // the mirror unregisters its entries
		}
		if ev.Type == discovery.Removed {
			break
		}
	}
	fmt.Println(<-ended)
	// Output:
	// added dynamo/backend/generate/2a
	// removed dynamo/backend/generate/2a
	// <nil>
}
