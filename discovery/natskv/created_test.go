package natskv_test

import (
	"context"
	"testing"

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
