//go:build cgo && !nozmq

package zmq

import (
	"math"
	"testing"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/waittest"
)

type noHistory struct{}

func (noHistory) Slice(dst []driver.Message, _, _ uint64, _, _ int) []driver.Message { return dst }

// TestDealersEnd checks that an idle subscriber has no connection for replay.
func TestDealersEnd(t *testing.T) {
	t.Parallel()
	zc, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := zc.Close(); err != nil {
			t.Error(err)
		}
	}()
	pub, err := zc.DirectPublisher("127.0.0.1", "kv-events", 1)
	if err != nil {
		t.Fatal(err)
	}
	address, err := pub.ServeReplay(1, noHistory{})
	if err != nil {
		t.Fatal(err)
	}
	sub, err := zc.Subscribe("kv-events")
	if err != nil {
		t.Fatal(err)
	}
	dealers := func() int {
		sub.replays.mu.Lock()
		defer sub.replays.mu.Unlock()
		return len(sub.replays.dealers)
	}
	r := driver.ReplayRequest{PublisherID: 1, Address: address, Last: math.MaxUint64}
	if err := sub.Replay(t.Context(), r, func(*driver.Message) {}); err != nil || dealers() != 1 {
		t.Errorf("error %v, %d dealers: want 1", err, dealers())
	}
	waittest.Eventually(t, "the dealer ends", func() bool { return dealers() == 0 })
	if err := sub.Replay(t.Context(), r, func(*driver.Message) {}); err != nil {
		t.Errorf("replay with another dealer: %v", err)
	}
}
