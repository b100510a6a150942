package eventplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/wait"
)

// memoryReceiver is a driver in memory. A driver has no further duties.
type memoryReceiver struct {
	messages chan driver.Message
	closed   chan struct{}
	bad      atomic.Bool
}

func (m *memoryReceiver) Next(ctx context.Context, msg *driver.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.bad.Swap(false) {
		return &driver.FrameError{Subject: "s", Reason: "three frames, want four"}
	}
	select {
	case *msg = <-m.messages:
		return nil
	case <-m.closed:
		return driver.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *memoryReceiver) Dropped() uint64             { return 0 }
func (m *memoryReceiver) Queued() int                 { return len(m.messages) }
func (m *memoryReceiver) Close() error                { close(m.closed); return nil }
func (m *memoryReceiver) Ready(context.Context) error { return nil }

func newMemoryReceiver(multipath bool) (*memoryReceiver, *Subscriber) {
	m := &memoryReceiver{messages: make(chan driver.Message, 100), closed: make(chan struct{})}
	conn := &subConn{Subscriber: m, subject: "s", multipath: multipath}
	return m, openSubscriber(&Client{config: Config{Codec: codec.Msgpack}}, "t", conn, SubscriberOptions{})
}

func (m *memoryReceiver) send(t *testing.T, env codec.Envelope) {
	t.Helper()
	env.Topic = "t"
	m.sendAs(t, env, env.PublisherID, env.Sequence)
}

func (m *memoryReceiver) sendAs(t *testing.T, env codec.Envelope, publisher, sequence uint64) {
	t.Helper()
	body, err := env.Append(nil, codec.Msgpack)
	if err != nil {
		t.Fatal(err)
	}
	m.messages <- driver.Message{Subject: "s", PublisherID: publisher, Sequence: sequence, HasIdentity: true, Body: body}
}

func TestNextWaitsForTheOtherPath(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemoryReceiver(true)
		for _, seq := range []uint64{0, 2, 3} {
			m.send(t, codec.Envelope{PublisherID: 1, Sequence: seq})
		}
		start := time.Now()
		go func() {
			_ = wait.Sleep(t.Context(), reorderTimeout/2)
			m.send(t, codec.Envelope{PublisherID: 1, Sequence: 1})
			m.send(t, codec.Envelope{PublisherID: 1, Sequence: 5})
		}()
		var got []uint64
		for range 5 {
			ev, err := s.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if want := uint64(0); ev.Sequence != 5 && ev.Missed != want {
				t.Errorf("event %d: missed %d", ev.Sequence, ev.Missed)
			}
			got = append(got, ev.Sequence)
		}
		if want := []uint64{0, 1, 2, 3, 5}; !slices.Equal(got, want) {
			t.Errorf("got %v: want %v", got, want)
		}
		if took, want := time.Since(start), reorderTimeout/2+reorderTimeout; took != want {
			t.Errorf("took %v: want %v", took, want)
		}
		if stats := s.Stats(); stats.Gaps != 1 || stats.Missed != 1 {
			t.Errorf("stats %+v: want one gap of one event", stats)
		}
	})
}

// The event that fills a gap may have arrived long ago, while the application was
// busy.
func TestBusyApplicationLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemoryReceiver(true)
		for _, env := range []codec.Envelope{{PublisherID: 1}, {PublisherID: 1, Sequence: 2}, {PublisherID: 2}, {PublisherID: 1, Sequence: 1}} {
			m.send(t, env)
		}
		for range 4 {
			ev, err := s.Next(t.Context())
			if err != nil || ev.Missed != 0 {
				t.Fatalf("event %+v, %v", ev, err)
			}
			_ = wait.Sleep(t.Context(), 10*reorderTimeout)
		}
	})
}

func TestNextHonoursTheContextWhileItHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemoryReceiver(true)
		m.send(t, codec.Envelope{PublisherID: 1, Sequence: 5})
		ctx, cancel := context.WithTimeout(t.Context(), reorderTimeout/2)
		defer cancel()
		if _, err := s.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error %v: want that of the context", err)
		}
		if ev, err := s.Next(t.Context()); err != nil || ev.Sequence != 5 {
			t.Fatalf("event %+v, %v: want the one that was held", ev, err)
		}
	})
}

func TestShutdownDeliversHeldEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMemoryReceiver(true)
		m.send(t, codec.Envelope{PublisherID: 1, Sequence: 5})
		go func() {
			synctest.Wait()
			_ = s.Shutdown(context.Background())
		}()
		if ev, err := s.Next(t.Context()); err != nil || ev.Sequence != 5 {
			t.Fatalf("event %+v, %v: want the one that was held", ev, err)
		}
		if _, err := s.Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Fatalf("error %v: want ErrClosed", err)
		}
	})
}

func TestBadMessagesTouchNoState(t *testing.T) {
	t.Parallel()
	m, s := newMemoryReceiver(false)
	m.send(t, codec.Envelope{PublisherID: 1, Sequence: 0})
	m.sendAs(t, codec.Envelope{PublisherID: 1, Sequence: 7, Topic: "t"}, 1, 8)
	m.sendAs(t, codec.Envelope{PublisherID: 1, Sequence: 7, Topic: "t"}, 2, 7)
	m.sendAs(t, codec.Envelope{PublisherID: 1, Sequence: 7, Topic: "t2"}, 1, 7)
	m.messages <- driver.Message{Subject: "s", Body: []byte{0xdd, 0xff, 0xff, 0xff, 0xff}}
	m.messages <- driver.Message{Subject: "s"}
	m.send(t, codec.Envelope{PublisherID: 1, Sequence: 1})
	m.bad.Store(true)
	bad := uint64(0)
	for got := 0; got < 2; {
		ev, err := s.Next(t.Context())
		var decode *DecodeError
		switch {
		case errors.As(err, &decode):
			bad++
		case err != nil || ev.Missed != 0:
			t.Fatalf("event %+v, %v: want it without a gap", ev, err)
		default:
			got++
		}
	}
	stats := s.Stats()
	if bad != 6 || stats.DecodeErrors != bad || stats.Received != 2 || len(stats.Publishers) != 1 {
		t.Errorf("%d errors, stats %+v: want 6, and one publisher", bad, stats)
	}
}

// A gap is returned before the event that counts it, and only if it is requested.
func TestGapsAreReturnedAsEvents(t *testing.T) {
	t.Parallel()
	m, s := newMemoryReceiver(false)
	s.sequencer.reportGaps = true
	for _, seq := range []uint64{3, 4, 9, 10} {
		m.send(t, codec.Envelope{PublisherID: 1, Sequence: seq, PublishedAt: seq, Payload: []byte{7}})
	}
	var got []string
	for ev, err := range Events[int](t.Context(), s) {
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(ev.Sequence, " ", ev.Missed, " ", ev.Value)
		if ev.Gap != nil {
			text = fmt.Sprintf("%+v", *ev.Gap)
			if err := ev.Decode(new(int)); err == nil || ev.PublisherID != 1 || ev.Topic != "t" {
				t.Errorf("gap %+v, decoded %v: want publisher 1, topic t and an error", ev, err)
			}
		}
		if got = append(got, text); ev.Sequence == 10 {
			break
		}
	}
	want := []string{"3 0 7", "4 0 7", "{PublisherID:1 First:5 Last:8 Recovered:false}", "9 4 7", "10 0 7"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q: want %q", got, want)
	}
	if st := s.Stats(); st.Received != 4 || st.Gaps != 1 || st.Missed != 4 || st.DecodeErrors != 0 {
		t.Errorf("stats %+v: want 4 received, and one gap of 4", st)
	}
}
