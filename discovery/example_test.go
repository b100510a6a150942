package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
)

// A reader watches a worker register an endpoint and shut down.
func ExampleClient_Watch() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	registry := memory.New()
	worker := discovery.NewClient(registry.Open(), discovery.Options{InstanceID: 42})
	reader := discovery.NewClient(registry.Open(), discovery.Options{})

	for ev, err := range reader.Watch(ctx, discovery.Query{Kind: discovery.KindEndpoint}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		switch ev.Type {
		case discovery.Synced: // all that was there has been Added
			_, err = worker.Register(ctx, discovery.Endpoint{
				Scope:     discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"},
				Transport: discovery.TCP("10.0.0.7:41231/2a/generate"),
			})
		case discovery.Added:
			fmt.Println("added", ev.Instance.ID(), ev.Instance.Spec.(discovery.Endpoint).Transport.Address)
			err = worker.Shutdown(ctx)
		case discovery.Removed:
			fmt.Println("removed", ev.Instance.ID())
			return
		}
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	// Output:
	// added dynamo/backend/generate/2a 10.0.0.7:41231/2a/generate
	// removed dynamo/backend/generate/2a
}

// All models of one endpoint must be compatible.
func ExampleClient_Register_modelConflict() {
	ctx := context.Background()
	registry := memory.New()
	scope := discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}
	for _, name := range []string{"llama", "llama", "qwen"} {
		worker := discovery.NewClient(registry.Open(), discovery.Options{})
		model, err := discovery.NewModel(scope, map[string]any{"display_name": name}, "")
		if err != nil {
			fmt.Println(err)
			return
		}
		_, err = worker.Register(ctx, model)
		fmt.Println(errors.Is(err, discovery.ErrModelConflict), err)
	}
	// Output:
	// false <nil>
	// false <nil>
	// true discovery: model "qwen" at dynamo/backend/generate: "llama" is served there: another model is registered there
}

// A query matches the registrations in its scope and below.
func ExampleClient_List() {
	ctx := context.Background()
	client := discovery.NewClient(memory.New().Open(), discovery.Options{InstanceID: 42})
	for _, scope := range []discovery.Scope{
		{Namespace: "dynamo"},
		{Namespace: "dynamo", Component: "backend"},
		{Namespace: "other", Component: "backend"},
	} {
		_, err := client.Register(ctx, discovery.EventChannel{
			Scope: scope, Topic: "kv-events", Transport: discovery.ZMQ{Endpoint: "tcp://10.0.0.7:41877"},
		})
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	found, err := client.List(ctx, discovery.Query{
		Kind:  discovery.KindEventChannel,
		Scope: discovery.Scope{Namespace: "dynamo"},
		Topic: "kv-events",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, in := range found {
		fmt.Println(in.ID(), in.Spec.(discovery.EventChannel).Transport.Address())
	}
	// Output:
	// dynamo//kv-events/2a tcp://10.0.0.7:41877
	// dynamo/backend/kv-events/2a tcp://10.0.0.7:41877
}

// A router keeps the registrations of its namespace in a cache, which one watch
// keeps up to date.
func ExampleCache() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	registry := memory.New()
	worker := discovery.NewClient(registry.Open(), discovery.Options{InstanceID: 42})
	scope := discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}
	for _, spec := range []discovery.Spec{
		discovery.Endpoint{Scope: scope, Transport: discovery.TCP("10.0.0.7:41231/2a/generate")},
		discovery.Model{Scope: scope, Card: []byte(`{"display_name":"llama"}`)},
	} {
		if _, err := worker.Register(ctx, spec); err != nil {
			fmt.Println(err)
			return
		}
	}

	router := discovery.NewClient(registry.Open(), discovery.Options{})
	cache := discovery.NewCache(router, discovery.Query{Kind: discovery.KindAny, Scope: discovery.Scope{Namespace: "dynamo"}})
	done := make(chan error)
	go func() { done <- cache.Run(ctx) }()
	<-cache.Ready()

	for _, model := range cache.ByModel("llama") {
		for _, in := range cache.ByInstance(model.InstanceID) {
			fmt.Println(in.ID().Kind, in.ID())
		}
	}
	cancel()
	fmt.Println(<-done)
	// Output:
	// Endpoint dynamo/backend/generate/2a
	// Model dynamo/backend/generate/2a
	// context canceled
}
