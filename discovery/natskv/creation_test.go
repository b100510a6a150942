package natskv

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/natstest"
)

// The server announces the creation of a bucket once. If the listing that follows
// fails, the next one must not wait for another announcement.
func TestListingAfterACreationIsRepeatedAtOnce(t *testing.T) {
	t.Parallel()
	proxy, nc := startStall(t, natstest.Run(t))
	opened, err := openStore(t, nc, Options{}).Watch(t.Context(), discovery.Query{Kind: discovery.KindEndpoint})
	if err != nil {
		t.Fatal(err)
	}
	w := opened.(*watcher)
	t.Cleanup(func() { _ = w.Close() })
	for !w.absent || !w.expecting {
		if _, err := w.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	proxy.Stall()
	w.msgs <- &nats.Msg{}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := w.list(short); err == nil {
		t.Fatal("a listing on a connection that has stalled succeeds")
	}
	proxy.Resume()
	ctx, cancel := context.WithTimeout(t.Context(), absentPoll/4) // half of the shortest pause
	defer cancel()
	if err := w.awaitCreation(ctx); err != nil {
		t.Errorf("the next listing waits: %v", err)
	}
}
