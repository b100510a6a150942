package natskv_test

import (
	"context"
	"fmt"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/natsconn"
)

// A worker registers an endpoint under a lease of 5 s, and a router lists it.
// If the worker dies, the server removes the entry when the lease expires.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	url, stop, err := natstest.ForExample() // in place of a server of your own
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()

	open := func() *discovery.Client {
		store, err := natskv.Dial(ctx, natsconn.Config{URL: url}, natskv.Options{TTL: 5 * time.Second})
		if err != nil {
			fmt.Println(err)
			return nil
		}
		return discovery.NewClient(store, discovery.Options{})
	}
	worker, router := open(), open()
	if worker == nil || router == nil {
		return
	}
	defer func() { _ = router.Shutdown(ctx) }()

	_, err = worker.RegisterAs(ctx, 0x2a, discovery.Endpoint{
		Scope:     discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"},
		Transport: discovery.TCP("10.0.0.7:41231/2a/generate"),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	endpoints := discovery.Query{Kind: discovery.KindEndpoint, Scope: discovery.Scope{Namespace: "dynamo"}}
	found, err := router.List(ctx, endpoints)
	for _, in := range found {
		fmt.Println(in.ID(), in.Spec.(discovery.Endpoint).Transport.Address)
	}
	if err != nil {
		fmt.Println(err)
	}

	fmt.Println(worker.Shutdown(ctx)) // removes the entry at once
	found, err = router.List(ctx, endpoints)
	fmt.Println(len(found), err)
	// Output:
	// dynamo/backend/generate/2a 10.0.0.7:41231/2a/generate
	// <nil>
	// 0 <nil>
}
