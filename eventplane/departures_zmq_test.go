//go:build cgo && !nozmq

package eventplane_test

import (
	"context"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/internal/wait"
)

// TestReaderIsBusyWhenPublishersLeave has a reader that calls Next only when a
// publisher that it has received nothing of has long left.
func TestReaderIsBusyWhenPublishersLeave(t *testing.T) {
	t.Parallel()
	const events = 100
	ctx, m := patient(t), memory.New()
	sub, err := newPlane(t, directConfig(), newDiscovery(t, m)).Subscriber(ctx, backend, "kv-events")
	must(t, err)
	pub, err := newPlane(t, directConfig(), newDiscovery(t, m)).Publisher(ctx, backend, "kv-events")
	must(t, err)
	must(t, pub.WaitSubscribers(ctx, 1))
	for i := range events {
		must(t, pub.Publish(ctx, i))
	}
	must(t, pub.Shutdown(context.WithoutCancel(ctx)))
	must(t, wait.Sleep(ctx, 6*time.Second)) // longer than the delay after which publishers are forgotten
	for i := range uint64(events) {
		ev, err := sub.Next(ctx)
		must(t, err)
		if ev.Sequence != i {
			t.Fatalf("sequence %d, stats %+v: want %d", ev.Sequence, sub.Stats(), i)
		}
	}
}
