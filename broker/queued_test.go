//go:build cgo && !nozmq

package broker_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/internal/waittest"
)

// shapes returns large messages without their first frame: one large frame, two
// with a small one between, and one before an empty last frame.
func shapes() [][][]byte {
	big := bytes.Repeat([]byte{'b'}, 1<<20)
	return [][][]byte{
		{[]byte("kv-events"), make([]byte, 8), big},
		{big, []byte("middle"), big},
		{[]byte("kv-events"), big, nil},
	}
}

// numbered publishes messages with their number as first frame, and receives them.
type numbered struct {
	pub, sub *zmq.Socket
	sent     uint64
}

func (p *numbered) publish(t *testing.T, body [][]byte) {
	t.Helper()
	parts := []any{binary.BigEndian.AppendUint64(nil, p.sent)}
	for _, frame := range body {
		parts = append(parts, frame)
	}
	send(t, p.pub, parts...)
	p.sent++
}

// passes publishes body, and a small message, which must arrive. It reports
// whether body did, which must be whole.
func (p *numbered) passes(t *testing.T, body [][]byte) bool {
	t.Helper()
	p.publish(t, body)
	p.publish(t, [][]byte{[]byte("small")})
	received := false
	for {
		m := next(t, p.sub)
		n := binary.BigEndian.Uint64(m[0])
		if n == p.sent-1 {
			return received
		}
		if n != p.sent-2 || received || !slices.EqualFunc(m[1:], body, bytes.Equal) {
			t.Fatalf("message %d: got %d frames as message %d, want %d, unchanged", p.sent-2, len(m)-1, n, len(body))
		}
		received = true
	}
}

// TestQueuedBytesAreBounded has a subscriber that does not read: the messages
// that wait for it stay within the limit, small ones still pass, none is
// truncated, and large ones pass again when it has disconnected.
func TestQueuedBytesAreBounded(t *testing.T) {
	t.Parallel()
	const limit, largest = 8 << 20, 2<<20 + 1<<10
	b, stop := start(t, broker.Options{MaxQueued: limit})
	p := numbered{pub: publisher(t, b), sub: subscriber(t, b)}
	await(t, p.pub, p.sub, "ready")
	stalled := rawSubscriber(t, b, []byte{0, 1, 1}) // subscribes to everything
	defer stalled.Close()
	var missed uint64
	for missed < 20 {
		for _, body := range shapes() {
			if !p.passes(t, body) {
				missed++
			}
			if got := b.Stats().Queued; got > limit+largest {
				t.Fatalf("%d bytes wait, want at most %d and one message", got, limit)
			}
		}
	}
	if got := b.Stats().Dropped; got != missed {
		t.Errorf("Dropped is %d, want %d, which the other subscriber missed", got, missed)
	}
	_ = stalled.Close()
	waittest.Eventually(t, "the queue is empty", func() bool { return b.Stats().Queued == 0 })
	for _, body := range shapes() {
		if !p.passes(t, body) {
			t.Errorf("a message of %d frames is dropped, although no subscriber stalls any more", len(body))
		}
	}
	stop()
	if got := b.Stats(); got.Dropped != missed || got.Queued != 0 {
		t.Errorf("after Close: %+v, want Dropped %d and Queued 0", got, missed)
	}
}

// TestCloseWhileMessagesWait checks that messages that wait at Close are no
// longer counted after it.
func TestCloseWhileMessagesWait(t *testing.T) {
	t.Parallel()
	b, stop := start(t, broker.Options{MaxQueued: 4 << 20})
	p := numbered{pub: publisher(t, b), sub: subscriber(t, b)}
	await(t, p.pub, p.sub, "ready")
	defer rawSubscriber(t, b, []byte{0, 1, 1}).Close()
	for p.passes(t, shapes()[0]) {
		continue
	}
	if got := b.Stats().Queued; got < 4<<20 {
		t.Errorf("%d bytes wait, want 4 MiB or more", got)
	}
	stop()
	if got := b.Stats().Queued; got != 0 {
		t.Errorf("%d bytes are still counted after Close", got)
	}
}
