package drivertest

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/waittest"
)

// RunReplay tests a driver whose publishers are [driver.ReplayServer] and whose
// subscribers are [driver.Replayer]. It calls open like [Run].
func RunReplay(t *testing.T, open func(t *testing.T) Harness) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, h Harness)
	}{
		{"an answer has the events of the range in order", testReplayRange},
		{"an answer begins with the first event that is kept", testReplayKept},
		{"nothing is kept", testReplayNothing},
		{"large events are replayed", testReplayLarge},
		{"a publisher with another id does not answer", testReplayOther},
		{"a replay that is cancelled half-way leaves nothing", testReplayCancel},
		{"100,000 events are replayed completely", testReplayMany},
		{"many subscribers at once all receive everything", testReplayFanOut},
		{"a subscriber that does not read delays no other", testReplayStalled},
		{"a publisher that is closed ends replays", testReplayPublisherGone},
		{"a subscriber that is closed ends replays", testReplayClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open(t))
		})
	}
}

// History is a driver.History for tests.
type History struct {
	mu     sync.Mutex
	first  uint64
	bodies [][]byte
}

// NewHistory returns a history of n events from the sequence first on. Their bodies
// are the sequence and zeros.
func NewHistory(first uint64, n, size int) *History {
	h := &History{first: first, bodies: make([][]byte, n)}
	for i := range h.bodies {
		h.bodies[i] = make([]byte, size)
		binary.BigEndian.PutUint64(h.bodies[i], first+uint64(i))
	}
	return h
}

// Slice implements driver.History.
func (h *History) Slice(dst []driver.Message, first, last uint64, limit, maxBytes int) []driver.Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	bytes := 0
	for seq := max(first, h.first); seq <= last && seq-h.first < uint64(len(h.bodies)) && limit > 0; seq++ {
		body := h.bodies[seq-h.first]
		if bytes += len(body); bytes > maxBytes && bytes > len(body) {
			break
		}
		dst = append(dst, driver.Message{Subject: subject, PublisherID: publisherID, Sequence: seq, Body: append([]byte(nil), body...)})
		limit--
	}
	return dst
}

const publisherID = 1<<53 - 1

// Serve makes pub serve h, and returns a request for all of it.
func Serve(tb testing.TB, pub driver.Publisher, h driver.History) driver.ReplayRequest {
	tb.Helper()
	address, err := pub.(driver.ReplayServer).ServeReplay(publisherID, h)
	if err != nil {
		tb.Fatal(err)
	}
	return driver.ReplayRequest{PublisherID: publisherID, Address: address, Last: math.MaxUint64}
}

// opened returns a subscriber, and a request to a publisher that serves h.
func opened(t *testing.T, h Harness, history driver.History) (driver.Replayer, driver.ReplayRequest) {
	t.Helper()
	r := Serve(t, h.NewPublisher(t), history)
	return h.NewSubscriber(t, subject).(driver.Replayer), r
}

// Replay requests events until there are no more, as often as an error permits it,
// and returns the number of those that deliver was called with.
func Replay(ctx context.Context, sub driver.Replayer, r driver.ReplayRequest, deliver func(*driver.Message)) (int, error) {
	total := 0
	for {
		n := 0
		err := sub.Replay(ctx, r, func(m *driver.Message) {
			n++
			r.First = m.Sequence + 1
			deliver(m)
		})
		total += n
		switch {
		case ctx.Err() != nil, errors.Is(err, driver.ErrNoReplay), errors.Is(err, driver.ErrClosed):
			return total, err
		case err == nil && (n == 0 || r.First > r.Last):
			return total, nil
		}
	}
}

// check returns a function that fails the test unless it is called with the events
// from first on.
func check(t *testing.T, first uint64) func(*driver.Message) {
	t.Helper()
	failed := false
	return func(m *driver.Message) {
		if failed {
			return
		}
		if m.PublisherID != publisherID || m.Sequence != first || m.Subject != subject || binary.BigEndian.Uint64(m.Body) != first {
			failed = true
			t.Errorf("got publisher %d, sequence %d, subject %q, body %.16x: want sequence %d", m.PublisherID, m.Sequence, m.Subject, m.Body, first)
		}
		first++
	}
}

func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	t.Cleanup(cancel)
	return ctx
}

// expect replays and requires the n events from first on.
func expect(ctx context.Context, t *testing.T, sub driver.Replayer, r driver.ReplayRequest, first uint64, n int) {
	t.Helper()
	got, err := Replay(ctx, sub, r, check(t, first))
	if err != nil || got != n {
		t.Errorf("from %d to %d: got %d events, error %v: want %d", r.First, r.Last, got, err, n)
	}
}

func testReplayRange(t *testing.T, h Harness) {
	sub, r := opened(t, h, NewHistory(0, 2000, 100))
	ctx := patient(t)
	for _, c := range []struct{ first, last uint64 }{{0, 0}, {7, 7}, {0, 99}, {1000, 1511}, {1999, 1999}, {1900, 3000}, {0, 1999}} {
		r.First, r.Last = c.first, c.last
		expect(ctx, t, sub, r, c.first, int(min(c.last, 1999)-c.first+1))
	}
	r.First, r.Last = 0, math.MaxUint64
	n := 0
	if err := sub.Replay(ctx, r, func(*driver.Message) { n++ }); err != nil || n != driver.MaxReplay {
		t.Errorf("one answer has %d events, error %v: want %d", n, err, driver.MaxReplay)
	}
}

func testReplayKept(t *testing.T, h Harness) {
	sub, r := opened(t, h, NewHistory(5000, 700, 8))
	ctx := patient(t)
	expect(ctx, t, sub, r, 5000, 700)
	r.First, r.Last = 4000, 5099
	expect(ctx, t, sub, r, 5000, 100)
	for _, c := range []struct{ first, last uint64 }{{0, 4999}, {5700, math.MaxUint64}, {math.MaxUint64, math.MaxUint64}} {
		r.First, r.Last = c.first, c.last
		expect(ctx, t, sub, r, 0, 0)
	}
}

func testReplayNothing(t *testing.T, h Harness) {
	sub, r := opened(t, h, NewHistory(0, 0, 8))
	expect(patient(t), t, sub, r, 0, 0)
}

func testReplayLarge(t *testing.T, h Harness) {
	pub := h.NewPublisher(t)
	history := NewHistory(0, 0, 0)
	r := Serve(t, pub, history)
	largest := sort.Search(1<<20, func(n int) bool { return pub.Check(n+1) != nil }) // serving may reduce it
	large := NewHistory(0, 10, largest)
	history.mu.Lock()
	history.bodies = large.bodies
	history.mu.Unlock()
	expect(patient(t), t, h.NewSubscriber(t, subject).(driver.Replayer), r, 0, 10)
}

func testReplayOther(t *testing.T, h Harness) {
	sub, r := opened(t, h, NewHistory(0, 10, 8))
	r.PublisherID = 42
	n, err := Replay(patient(t), sub, r, func(*driver.Message) {})
	if n != 0 || !errors.Is(err, driver.ErrNoReplay) {
		t.Errorf("got %d events, error %v: want ErrNoReplay", n, err)
	}
}

func testReplayCancel(t *testing.T, h Harness) {
	sub, r := opened(t, h, NewHistory(0, 5000, 100))
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		_, err := Replay(ctx, sub, r, func(*driver.Message) {
			if n++; n == 100 {
				cancel()
			}
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v after %d events: want that of the context", err, n)
		}
	}
	expect(patient(t), t, sub, r, 0, 5000)
}

// testReplayMany requests two slices at a time.
func testReplayMany(t *testing.T, h Harness) {
	const n = 100_000
	sub, r := opened(t, h, NewHistory(0, n, 100))
	ctx := patient(t)
	var halves sync.WaitGroup
	for _, first := range []uint64{0, n / 2} {
		r := driver.ReplayRequest{PublisherID: r.PublisherID, Address: r.Address, First: first, Last: first + n/2 - 1}
		halves.Go(func() { expect(ctx, t, sub, r, first, n/2) })
	}
	halves.Wait()
}

func testReplayFanOut(t *testing.T, h Harness) {
	const n = 10_000
	r := Serve(t, h.NewPublisher(t), NewHistory(0, n, 100))
	ctx := patient(t)
	var clients sync.WaitGroup
	for range 8 {
		sub := h.NewSubscriber(t, subject).(driver.Replayer)
		clients.Go(func() { expect(ctx, t, sub, r, 0, n) })
	}
	clients.Wait()
}

// testReplayStalled has a subscriber that stops reading in an answer, and stays so
// until another has received everything.
func testReplayStalled(t *testing.T, h Harness) {
	const n = 10_000
	stalled, r := opened(t, h, NewHistory(0, n, 1000))
	ctx := patient(t)
	blocked, release := make(chan struct{}), make(chan struct{})
	var client sync.WaitGroup
	client.Go(func() {
		var once sync.Once
		next := check(t, 0)
		got, err := Replay(ctx, stalled, r, func(m *driver.Message) {
			next(m)
			once.Do(func() { close(blocked); <-release })
		})
		if err != nil || got != n {
			t.Errorf("the stalled subscriber got %d events, error %v: want %d", got, err, n)
		}
	})
	<-blocked
	expect(ctx, t, h.NewSubscriber(t, subject).(driver.Replayer), r, 0, n)
	close(release)
	client.Wait()
}

func testReplayPublisherGone(t *testing.T, h Harness) {
	pub := h.NewPublisher(t)
	r := Serve(t, pub, NewHistory(0, 1_000_000, 8))
	sub := h.NewSubscriber(t, subject).(driver.Replayer)
	n, failed := 0, 0
	for ctx := patient(t); failed == 0; {
		err := sub.Replay(ctx, r, func(m *driver.Message) {
			if n++; n == 10*driver.MaxReplay+10 {
				if err := pub.Close(); err != nil {
					t.Error(err)
				}
			}
			r.First = m.Sequence + 1
		})
		switch {
		case ctx.Err() != nil || err == nil && n > 20*driver.MaxReplay:
			t.Fatalf("error %v after %d events: want one since the publisher is closed", err, n)
		case err != nil:
			failed++
		}
	}
}

func testReplayClosed(t *testing.T, h Harness) {
	r := Serve(t, h.NewPublisher(t), NewHistory(0, 1_000_000, 8))
	sub := h.NewSubscriber(t, subject)
	blocked := make(chan struct{})
	time.AfterFunc(0, func() {
		<-blocked
		if err := sub.Close(); err != nil {
			t.Error(err)
		}
	})
	n := 0
	_, err := Replay(patient(t), sub.(driver.Replayer), r, func(*driver.Message) {
		if n++; n == 1000 {
			close(blocked)
		}
	})
	if !errors.Is(err, driver.ErrClosed) {
		t.Errorf("error %v: want ErrClosed", err)
	}
	if err := sub.(driver.Replayer).Replay(t.Context(), r, func(*driver.Message) {}); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("error %v after Close: want ErrClosed", err)
	}
}

// BenchmarkReplay measures the replay of b.N events, for which r is a request.
func BenchmarkReplay(b *testing.B, sub driver.Replayer, r driver.ReplayRequest) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	half := uint64(b.N) / 2
	var halves sync.WaitGroup
	var total atomic.Int64
	for _, part := range [][2]uint64{{0, half}, {half, uint64(b.N)}} {
		r := r
		if r.First, r.Last = part[0], part[1]-1; part[0] == part[1] {
			continue
		}
		halves.Go(func() {
			n, err := Replay(b.Context(), sub, r, func(*driver.Message) {})
			if err != nil {
				b.Error(err)
			}
			total.Add(int64(n))
		})
	}
	halves.Wait()
	if total.Load() != int64(b.N) {
		b.Errorf("%d events: want %d", total.Load(), b.N)
	}
}
