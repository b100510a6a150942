// Command publisher is a worker without an engine: it registers an endpoint and
// a model, and publishes the changes of its KV cache until it is interrupted.
package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/eventplane"
)

// README: open
func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := run(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "publisher:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	peers, err := backend.Open(ctx, os.LookupEnv, backend.Options{}) // DYN_DISCOVERY_BACKEND, NATS_SERVER, …
	if err != nil {
		return err
	}
	defer shutdown(peers)
	cfg, err := eventplane.ConfigFromEnv(os.LookupEnv) // DYN_EVENT_PLANE, DYN_EVENT_PLANE_CODEC, …
	if err != nil {
		return err
	}
	plane, err := eventplane.New(cfg, peers)
	if err != nil {
		return err
	}
	defer shutdown(plane)
	return publish(ctx, peers, plane)
}

// shutdown unregisters and closes c. The context of run may be done by then.
func shutdown(c interface{ Shutdown(context.Context) error }) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := c.Shutdown(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "publisher:", err)
	}
}

// README: publish

// KVEvent reports a change of a worker's KV cache. Any type that the codec can
// encode may be an event; json or msgpack tags name its fields.
type KVEvent struct {
	WorkerID uint64   `json:"worker_id"`
	Stored   []uint64 `json:"stored,omitempty"` // hashes of blocks
	Removed  []uint64 `json:"removed,omitempty"`
}

func publish(ctx context.Context, peers *discovery.Client, plane *eventplane.Client) error {
	scope := discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}
	for _, spec := range []discovery.Spec{
		discovery.Endpoint{Scope: scope, Transport: discovery.TCP("127.0.0.1:9000")},
		discovery.Model{Scope: scope, Card: []byte(`{"display_name":"example-model"}`)},
	} {
		if _, err := peers.Register(ctx, spec); err != nil {
			return err
		}
	}
	pub, err := plane.Publisher(ctx, scope, "kv-events")
	if err != nil {
		return err
	}
	fmt.Printf("worker %x: publishing\n", peers.InstanceID())
	blocks := rand.Perm(64) // hashes; the cache holds 16 of them and evicts the oldest
	for n := 0; ; n++ {
		event := KVEvent{WorkerID: peers.InstanceID(), Stored: []uint64{uint64(blocks[n%64])}}
		if n >= 16 {
			event.Removed = []uint64{uint64(blocks[(n-16)%64])}
		}
		if err := pub.Publish(ctx, event); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, err) // such as no server: the event is lost, and counted as missed; the publisher goes on
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

// README: end
