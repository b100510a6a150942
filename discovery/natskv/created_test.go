package natskv_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestBucketCreatedDuringAWatch: that is no fault, after which a watch would hold
// removals for longer than the TTL.
func TestBucketCreatedDuringAWatch(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	reader, err := natskv.New(server.Connect(t), natskv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	defer func() { _ = reader.Shutdown(context.WithoutCancel(ctx)) }()
	w, err := reader.Watch(ctx, inNamespace("ns"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	next := func() discovery.Op {
		t.Helper()
		for {
			ch, err := w.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if ch.Op != discovery.OpProgress {
				return ch.Op
			}
		}
	}
	if first, second := next(), next(); first != discovery.OpReset || second != discovery.OpSynced {
		t.Fatalf("without a bucket: %v, %v", first, second)
	}
	register(t, newClient(t, server.Connect(t), natskv.Options{}), 1, endpoint("ns"))
	if op := next(); op != discovery.OpPut {
		t.Errorf("the first change in the new bucket is %v, want a put", op)
	}
}

// TestDeletedBucketDelaysNoRemoval: a held removal waits for a look whether there is a
// bucket again, so the watch looks often at first.
func TestDeletedBucketDelaysNoRemoval(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	owner, reader := server.Connect(t), server.Connect(t)
	store, err := natskv.New(owner, natskv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	register(t, discovery.NewClient(store, discovery.Options{}), 1, endpoint("ns"))
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	readStore, err := natskv.New(reader, natskv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = readStore.Shutdown(context.WithoutCancel(ctx)) }()
	w, err := readStore.Watch(ctx, inNamespace("ns"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	await := func(want discovery.Op) {
		t.Helper()
		for {
			ch, err := w.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if ch.Op == want {
				return
			}
		}
	}
	await(discovery.OpSynced)
	owner.Close()
	_ = store.Shutdown(ctx)
	js, err := jetstream.New(reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, stream := range []string{"KV_dynplane", "DYNPLANE_dynplane"} {
		if err := js.DeleteStream(ctx, stream); err != nil {
			t.Fatal(err)
		}
	}
	await(discovery.OpSynced)
	begun := time.Now()
	for range 5 {
		await(discovery.OpProgress)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("the watch looked for its bucket five times in %v", took)
	}
}
