package eventplane

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// newHistory returns a history with a budget of its own.
func newHistory(events, size int, budget int64) *eventHistory {
	h := &eventHistory{maxEvents: events, maxBytes: size, budget: &historyBudget{max: budget}}
	h.budget.publishers.Store(1)
	return h
}

// fill adds an event of size bytes, 8 at least, which begins with its sequence.
func (h *eventHistory) fill(size int) {
	body := binary.BigEndian.AppendUint64(h.reserve(size), h.next)
	h.add(append(body, make([]byte, size-8)...))
	h.evict()
}

// expectKept fails unless the history has the events from first on.
func expectKept(t *testing.T, h *eventHistory, first uint64) {
	t.Helper()
	got := h.slice(nil, 0, 1<<63, 1<<30, 1<<40)
	if uint64(len(got)) != h.next-first {
		t.Fatalf("%d events are kept, want those from %d to %d", len(got), first, h.next)
	}
	for i, m := range got {
		if m.Sequence != first+uint64(i) || binary.BigEndian.Uint64(m.Body) != m.Sequence {
			t.Fatalf("event %d is %d with body %x, want %d", i, m.Sequence, m.Body, first+uint64(i))
		}
	}
}

func TestHistoryKeepsTheLastEvents(t *testing.T) {
	t.Parallel()
	h := newHistory(100, 1<<30, 1<<30)
	for range 1000 {
		h.fill(50)
	}
	expectKept(t, h, 900)

	h = newHistory(1<<30, 5000, 1<<30)
	for range 1000 {
		h.fill(50)
	}
	expectKept(t, h, 900)
	h.fill(10_000)
	expectKept(t, h, 1000) // larger than the bound
	h.fill(50)
	expectKept(t, h, 1001)
}

// Random sizes, with readers of bodies that must not change.
func TestHistoryIsExact(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const maxEvents, maxBytes = 500, 100_000
	h := newHistory(maxEvents, maxBytes, 1<<30)
	var sizes []int
	held := map[uint64][]byte{}
	for range 20_000 {
		size := 8 + random.IntN(1<<random.IntN(16))
		h.fill(size)
		sizes = append(sizes, size)
		if m := h.slice(nil, random.Uint64N(h.next), h.next, 3, 1000); len(m) > 0 {
			held[m[0].Sequence] = m[0].Body
		}
	}
	first, total := len(sizes), 0
	for first > 0 && len(sizes)-first < maxEvents && total+sizes[first-1] <= maxBytes {
		first--
		total += sizes[first]
	}
	expectKept(t, h, uint64(first))
	if h.bytes != total {
		t.Errorf("%d bytes, want %d", h.bytes, total)
	}
	for sequence, body := range held {
		if len(body) != sizes[sequence] || binary.BigEndian.Uint64(body) != sequence {
			t.Fatalf("the body of %d has changed: %d bytes, %x", sequence, len(body), body[:8])
		}
	}
	h.clear()
	if used := h.budget.used.Load(); used != 0 || h.bytes != 0 {
		t.Errorf("%d bytes of memory, %d of bodies after clear, want 0", used, h.bytes)
	}
}

func TestHistorySlices(t *testing.T) {
	t.Parallel()
	h := newHistory(100, 1<<20, 1<<30)
	for range 200 {
		h.fill(100)
	}
	for _, c := range []struct {
		first, last uint64
		limit, size int
		want        []uint64 // first and last
	}{
		{0, 1 << 63, 1000, 1 << 30, []uint64{100, 199}},
		{150, 159, 1000, 1 << 30, []uint64{150, 159}},
		{150, 199, 5, 1 << 30, []uint64{150, 154}},
		{150, 199, 1000, 250, []uint64{150, 151}},
		{150, 199, 1000, 1, []uint64{150, 150}}, // one at least
		{0, 99, 1000, 1 << 30, nil},
		{200, 300, 1000, 1 << 30, nil},
		{160, 150, 1000, 1 << 30, nil},
	} {
		got := h.slice(make([]driver.Message, 1), c.first, c.last, c.limit, c.size)[1:]
		switch {
		case c.want == nil && len(got) == 0:
		case c.want == nil, len(got) == 0, got[0].Sequence != c.want[0], got[len(got)-1].Sequence != c.want[1]:
			t.Errorf("slice of %+v has %d events: want %v", c, len(got), c.want)
		}
	}
}

// Unsent events that are replaced are counted, and the oldest that is left is taken next.
func TestHistoryCountsWhatItLoses(t *testing.T) {
	t.Parallel()
	h := newHistory(10, 1<<20, 1<<30)
	for range 25 {
		h.fill(100)
	}
	if h.lost != 15 || h.unsent != 1000 {
		t.Errorf("%d lost, %d bytes unsent, want 15 and 1000", h.lost, h.unsent)
	}
	if got := h.take(nil, 4, 1<<20); len(got) != 4 || got[0].Sequence != 15 || h.unsent != 600 {
		t.Errorf("took %v, %d bytes unsent, want 4 from 15 and 600", got, h.unsent)
	}
	if !h.full(1<<20) || h.full(100) {
		t.Error("want room for 100 bytes, and none for 1 MiB")
	}
	h.fill(100) // replaces one that was sent
	if got := h.take(nil, 100, 1<<20); len(got) != 7 || got[0].Sequence != 19 || h.unsent != 0 || h.lost != 15 {
		t.Errorf("took %d, %d bytes unsent, %d lost, want 7 from 19, 0 and 15", len(got), h.unsent, h.lost)
	}
}

func TestHistoryWithoutReplaysUsesItsMemoryAgain(t *testing.T) {
	h := newHistory(100, 1<<20, 1<<30)
	h.fill(1000)
	h.markSent()
	h.removeSent()
	body := make([]byte, 1000)
	if n := testing.AllocsPerRun(100, func() {
		h.add(append(h.reserve(1000), body...))
		h.markSent()
		h.removeSent()
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	if h.first != h.next || h.bytes != 0 {
		t.Errorf("%d to %d with %d bytes are kept, want none", h.first, h.next, h.bytes)
	}
}

// Histories that fill the budget give up what is above their share.
func TestHistoriesShareTheirBudget(t *testing.T) {
	t.Parallel()
	const budget = 4 << 20
	first := newHistory(1<<30, 1<<30, budget)
	for range 2 * budget / 1000 {
		first.fill(1000)
	}
	if used := first.budget.used.Load(); used > budget+2*maxChunk {
		t.Errorf("one history uses %d bytes, want the budget of %d", used, budget)
	}
	second := &eventHistory{maxEvents: 1 << 30, maxBytes: 1 << 30, budget: first.budget}
	first.budget.publishers.Store(2)
	for range budget / 2 / 1000 {
		second.fill(1000)
	}
	first.fill(1000) // as a tick does
	if used := first.budget.used.Load(); used > budget+3*maxChunk || second.bytes < budget/2-maxChunk || first.bytes < budget/2-maxChunk {
		t.Errorf("%d bytes used, the histories have %d and %d, want half of %d each", used, first.bytes, second.bytes, budget)
	}
	small := newHistory(100, 1000, budget)
	small.fill(100)
	if used := small.budget.used.Load(); used > 2*minChunk {
		t.Errorf("a history of one event uses %d bytes, want at most %d", used, 2*minChunk)
	}
	if !bytes.Equal(small.slice(nil, 0, 0, 1, 1)[0].Body, append(make([]byte, 8), make([]byte, 92)...)) {
		t.Error("the event has changed")
	}
}
