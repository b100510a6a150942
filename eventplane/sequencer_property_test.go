package eventplane

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// history is what a publisher sent and what arrived, drawn from a seed: lives of
// one id, and paths that each keep the order, lose events, differ in speed, and
// may deliver an earlier life again.
type history struct {
	rand  *rand.Rand
	paths int
	now   uint64 // of the publisher's clock
	lives [][]Event
	model model
}

// model is what a sequencer must do with a history.
type model struct {
	arrivals, missed, lives uint64
	want                    []Event // in order, with Missed
}

// live lets the publisher live once, and passes what arrives to add. All arrives
// within the reorder timeout.
func (h *history) live(add func(Event)) {
	h.now += 1 + h.rand.Uint64N(50)
	sent := make([]Event, 1+h.rand.IntN(60))
	for i := range sent {
		h.now += h.rand.Uint64N(3)
		sent[i] = arrival(1, uint64(i), h.now)
	}
	h.lives = append(h.lives, sent)
	loss := h.rand.Float64() * 0.6
	rest := make([][]Event, h.paths)
	arrived := make([]bool, len(sent))
	for p := range rest {
		for i, ev := range sent {
			if h.rand.Float64() >= loss {
				rest[p], arrived[i] = append(rest[p], ev), true
			}
		}
	}
	h.expect(sent, arrived)
	for _, ev := range h.interleave(rest) {
		h.model.arrivals++
		add(ev)
	}
}

// interleave returns the events of all paths in order of arrival. The lowest
// sequence arrives first: if a higher one came before it that continues the
// sequences of an earlier life, the two lives could not be distinguished.
func (h *history) interleave(paths [][]Event) (all []Event) {
	lowest := -1
	for left := 1; left > 0; {
		p := h.rand.IntN(len(paths))
		n := min(h.rand.IntN(8), len(paths[p]))
		all = append(all, paths[p][:n]...)
		paths[p] = paths[p][n:]
		left = 0
		for _, rest := range paths {
			left += len(rest)
		}
	}
	for i, ev := range all {
		if lowest < 0 || ev.Sequence < all[lowest].Sequence {
			lowest = i
		}
	}
	if lowest > 0 {
		first := all[lowest]
		all = slices.Insert(slices.Delete(all, lowest, lowest+1), 0, first)
	}
	return all
}

// expect adds what must be delivered of a life. If its first arrival has a higher
// sequence than all before, that there was another life does not show.
func (h *history) expect(sent []Event, arrived []bool) {
	m, first := &h.model, true
	for i, ev := range sent {
		if !arrived[i] {
			continue
		}
		if n := len(m.want); n > 0 && ev.Sequence > m.want[n-1].Sequence {
			ev.Missed = ev.Sequence - m.want[n-1].Sequence - 1
		} else if first {
			m.lives++
		}
		m.missed += ev.Missed
		m.want = append(m.want, ev)
		first = false
	}
}

// flood delivers again what a broker that was away has of a life that has ended.
func (h *history) flood(add func(Event)) {
	if h.paths == 1 || len(h.lives) < 2 {
		return
	}
	old := h.lives[h.rand.IntN(len(h.lives)-1)]
	for _, ev := range old[h.rand.IntN(len(old)):] {
		h.model.arrivals++
		add(ev)
	}
}

func checkSequencer(t *testing.T, seed uint64) {
	t.Helper()
	h := &history{rand: rand.New(rand.NewPCG(seed, 0)), now: 1_000_000}
	h.paths = 1 + h.rand.IntN(3)
	s := newSequencer(h.paths > 1)
	s.reportGaps = true
	for range 1 + h.rand.IntN(5) {
		h.live(func(ev Event) { s.add(ev, 8) })
		s.advance(s.clock + reorderTimeout)
		h.flood(func(ev Event) { s.add(ev, 8) })
		s.advance(s.clock + reorderTimeout)
	}
	got, inGaps := uint64(0), uint64(0)
	for ev, ok := s.next(); ok; ev, ok = s.next() {
		if ev.Gap != nil {
			inGaps += ev.Gap.Last - ev.Gap.First + 1
			continue
		}
		if got >= uint64(len(h.model.want)) {
			t.Fatalf("seed %d: delivered %d@%d beyond the last", seed, ev.Sequence, ev.PublishedAt)
		}
		want := h.model.want[got]
		if ev.Sequence != want.Sequence || ev.PublishedAt != want.PublishedAt || ev.Missed != want.Missed {
			t.Fatalf("seed %d, delivery %d: sequence %d@%d, missed %d: want %d@%d, %d", seed, got,
				ev.Sequence, ev.PublishedAt, ev.Missed, want.Sequence, want.PublishedAt, want.Missed)
		}
		got++
	}
	if got != uint64(len(h.model.want)) {
		t.Fatalf("seed %d: %d delivered: want %d", seed, got, len(h.model.want))
	}
	if n := got + s.stats.duplicates + s.stats.outOfOrder; n != h.model.arrivals {
		t.Errorf("seed %d: %d delivered, stats %+v: want %d arrivals in all", seed, got, s.stats, h.model.arrivals)
	}
	if s.stats.missed != h.model.missed || inGaps != h.model.missed || h.model.lives > 0 && s.stats.restarts != h.model.lives-1 {
		t.Errorf("seed %d: stats %+v: want %d missed, %d lives", seed, s.stats, h.model.missed, h.model.lives)
	}
}

func TestSequencerMatchesTheModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		checkSequencer(t, seed)
	}
}

func FuzzSequencer(f *testing.F) {
	f.Add(uint64(0))
	f.Fuzz(checkSequencer)
}
