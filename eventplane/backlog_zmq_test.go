//go:build cgo && !nozmq

package eventplane_test

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/internal/zmtptest"
)

// TestASubscriberThatDoesNotReadCostsOthersNothing publishes large events
// while one subscriber does not read. Another receives all of them, by replay or not.
func TestASubscriberThatDoesNotReadCostsOthersNothing(t *testing.T) {
	t.Parallel()
	const events, ahead, size = 400, 60, 1 << 20
	cfg := directConfig()
	cfg.HistoryBytes = 4 * ahead * size
	ctx, m := patient(t), memory.New()
	pub, err := newPlane(t, cfg, newDiscovery(t, m)).PublisherWithOptions(ctx, backend, "kv-events", eventplane.PublisherOptions{HistoryBytes: 2 * ahead * size})
	must(t, err)
	sub, err := newPlane(t, cfg, newDiscovery(t, m)).SubscriberWithOptions(ctx, backend, "kv-events", eventplane.SubscriberOptions{Recover: true, QueueBytes: 2 * ahead * size})
	must(t, err)
	stalled := zmtptest.Dial(t, pub.Registration().Instance().Spec.(discovery.EventChannel).Transport.(discovery.ZMQ).Endpoint, "SUB")
	_, err = stalled.Write([]byte{0, 1, 1})
	must(t, err)
	must(t, pub.WaitSubscribers(ctx, 2))
	must(t, sub.Ready(ctx))
	var received atomic.Int64
	ended, failed := make(chan struct{}), atomic.Bool{}
	go func() {
		defer close(ended)
		for want := range uint64(events) {
			ev, err := sub.Next(ctx)
			if err != nil || ev.Sequence != want || ev.Missed != 0 {
				t.Errorf("event %d, missed %d, error %v: want %d", ev.Sequence, ev.Missed, err, want)
				failed.Store(true)
				return
			}
			received.Add(1)
		}
	}()
	payload := make([]byte, size)
	for i := range int64(events) {
		must(t, pub.PublishBytes(ctx, payload))
		if i%ahead == 0 { // the history must reach back as far as the subscriber is late
			waittest.Eventually(t, "the subscriber follows", func() bool { return received.Load() >= i-ahead/2 || failed.Load() })
		}
		if failed.Load() {
			break
		}
	}
	<-ended
	_ = stalled.SetReadDeadline(time.Now().Add(waittest.Patience))
	if _, err := io.Copy(io.Discard, stalled); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the subscriber that does not read was not disconnected")
	}
}
