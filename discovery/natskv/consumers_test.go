package natskv_test

import (
	"context"
	"iter"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// consumers returns the number of consumers of the bucket.
func consumers(t *testing.T, nc *nats.Conn) (n int) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "KV_"+bucket)
	if err != nil {
		t.Fatal(err)
	}
	names := stream.ConsumerNames(t.Context())
	for range names.Name() {
		n++
	}
	if err := names.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestConsumersGoWithTheirWatches(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{
		"one server": natstest.Run(t).URL(),
		"cluster":    natstest.URLs(natstest.Cluster(t, 3)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc := natstest.Connect(t, url)
			client := newClient(t, nc, natskv.Options{})
			register(t, client, 1, endpoint("ns"))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var stops []func()
			for range 5 {
				next, stop := iter.Pull2(client.Watch(ctx, inNamespace("ns")))
				defer stop()
				stops = append(stops, stop)
				if _, err, _ := next(); err != nil {
					t.Fatal(err)
				}
			}
			if n := consumers(t, nc); n != 2 { // one, and one that the others share
				t.Fatalf("5 watches have %d consumers", n)
			}
			for range 10 {
				if _, err := client.List(t.Context(), inNamespace("ns")); err != nil {
					t.Fatal(err)
				}
			}
			waittest.Eventually(t, "the consumers of lists are gone", func() bool { return consumers(t, nc) == 2 })
			for _, stop := range stops {
				stop()
			}
			waittest.Eventually(t, "the consumers of watches are gone", func() bool { return consumers(t, nc) == 0 })
		})
	}
}

// A consumer that is deleted by another client costs a listing, and no event.
func TestWatchWhoseConsumerIsDeleted(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	nc := server.Connect(t)
	client := newClient(t, nc, natskv.Options{})
	register(t, client, 1, endpoint("ns"))
	w := newWatch(t, client, inNamespace("ns"))
	w.expect(discovery.Added, 1)
	w.expect(discovery.Synced, 0)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "KV_"+bucket)
	if err != nil {
		t.Fatal(err)
	}
	for name := range stream.ConsumerNames(t.Context()).Name() {
		if err := stream.DeleteConsumer(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	register(t, client, 2, endpoint("ns"))
	w.expect(discovery.Added, 2)
}
