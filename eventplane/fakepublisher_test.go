package eventplane

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/wait"
)

// fakePublisher is a transport that can be blocked.
type fakePublisher struct {
	mu     sync.Mutex
	open   chan struct{} // closed while messages pass
	sent   []driver.Message
	err    error         // of Publish
	delay  time.Duration // of each message
	closed bool
}

func newFakePublisher() *fakePublisher {
	f := &fakePublisher{open: make(chan struct{})}
	close(f.open)
	return f
}

func (f *fakePublisher) block() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = make(chan struct{})
}

func (f *fakePublisher) Publish(ctx context.Context, m *driver.Message) error {
	f.mu.Lock()
	open, delay := f.open, f.delay
	f.mu.Unlock()
	if err := wait.Sleep(ctx, delay); err != nil {
		return err
	}
	select {
	case <-open:
	case <-ctx.Done():
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.sent = append(f.sent, *m)
	}
	return f.err
}

var errTooLarge = errors.New("too large")

func (f *fakePublisher) Check(size int) error {
	if size > 1<<20 {
		return errTooLarge
	}
	return nil
}

func (f *fakePublisher) Ready(context.Context) error { return nil }

func (f *fakePublisher) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

// sequences returns the sequences that were sent of one kind.
func (f *fakePublisher) sequences(kind driver.Kind) []uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []uint64
	for _, m := range f.sent {
		if m.Kind == kind {
			out = append(out, m.Sequence)
		}
	}
	return out
}

// testOutbox runs a test in a bubble, with an outbox that blocks or not.
func testOutbox(t *testing.T, blocks bool, o PublisherOptions, test func(t *testing.T, f *fakePublisher, b *outbox)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFakePublisher()
		c := Config{HistoryBytes: 1 << 30, Logger: slog.New(slog.DiscardHandler)}
		b := newOutbox(7, &pubConn{Publisher: f, blocks: blocks, subject: "s"}, &historyBudget{max: 1 << 30}, c, o)
		test(t, f, b)
		b.finish()
		if err := b.close(t.Context()); err != nil {
			t.Error(err)
		}
		if !f.closed {
			t.Error("the driver is not closed")
		}
	})
}

func (b *outbox) publishBytes(ctx context.Context, size int) error {
	return b.publish(ctx, &codec.Envelope{PublisherID: b.id, Topic: "t", Payload: make([]byte, size), Bytes: true}, codec.Msgpack)
}

func publishAll(t *testing.T, b *outbox, n, size int) {
	t.Helper()
	for range n {
		if err := b.publishBytes(t.Context(), size); err != nil {
			t.Fatal(err)
		}
	}
}

func rest(t *testing.T, d time.Duration) {
	t.Helper()
	if err := wait.Sleep(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

// expectFrom fails unless sequences are consecutive from first on, and n.
func expectFrom(t *testing.T, sequences []uint64, first, n uint64) {
	t.Helper()
	if uint64(len(sequences)) != n {
		t.Fatalf("%d events, want %d", len(sequences), n)
	}
	for i, s := range sequences {
		if s != first+uint64(i) {
			t.Fatalf("event %d has sequence %d, want %d", i, s, first+uint64(i))
		}
	}
}
