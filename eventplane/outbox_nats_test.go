package eventplane_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/latencyproxy"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/natsconn"
)

// A server that stops reading delays no Publish, though nats.go blocks in a write.
// Shutdown returns with its context, and the rest is counted.
func TestPublishDoesNotWaitForAServerThatStalls(t *testing.T) {
	t.Parallel()
	proxy, err := latencyproxy.Start(strings.TrimPrefix(natstest.Run(t).URL(), "nats://"), 0)
	must(t, err)
	t.Cleanup(func() { must(t, proxy.Close()) })
	ctx := patient(t)
	plane := newPlane(t, eventplane.Config{NATS: natsconn.Config{URL: "nats://" + proxy.Addr()}}, newDiscovery(t, memory.New()))
	pub, err := plane.Publisher(ctx, backend, "kv-events")
	must(t, err)
	must(t, pub.PublishBytes(ctx, nil))
	waittest.Eventually(t, "the first event is sent", func() bool { return pub.Stats().Sent == 1 })

	proxy.Stall()
	payload := make([]byte, 64<<10)
	for range 2000 { // 8 times the history, and more than all buffers before it
		must(t, pub.PublishBytes(ctx, payload))
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := pub.PublishBytes(short, payload); err != nil && !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 1800*time.Millisecond {
		t.Errorf("publish returns %v after %v, want its context to bound it", err, time.Since(start))
	}
	s := pub.Stats()
	if s.Published != s.Sent+s.Pending+s.Lost+s.Failed || s.Lost == 0 || s.KeptBytes > eventplane.DefaultHistoryBytes {
		t.Errorf("stats %+v, want a sum, some lost and a bounded history", s)
	}
	ending, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	start = time.Now()
	if err := pub.Shutdown(ending); err == nil || time.Since(start) > 10*time.Second {
		t.Errorf("shutdown returns %v after %v, want an error within its context", err, time.Since(start))
	}
	if s := pub.Stats(); s.Lost < 1000 {
		t.Errorf("stats %+v, want the rest lost", s)
	}
	proxy.Resume()
}

// max_payload is the error of the same Publish, and uses no sequence.
func TestTooLargeEventUsesNoSequence(t *testing.T) {
	t.Parallel()
	p, ctx := connect(t, eventplane.Config{NATS: natsconn.Config{URL: natstest.Run(t, natstest.MaxPayload(4096)).URL()}}), patient(t)
	if err := p.pub.PublishBytes(ctx, make([]byte, 5000)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("error %v, want ErrMaxPayload", err)
	}
	must(t, p.pub.PublishBytes(ctx, make([]byte, 100)))
	ev, err := p.sub.Next(ctx)
	must(t, err)
	if ev.Sequence != p.next || ev.Missed != 0 {
		t.Errorf("sequence %d, %d missed, want %d and 0", ev.Sequence, ev.Missed, p.next)
	}
}
