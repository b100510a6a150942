package eventplane

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/dynplane/dynplane/codec"
)

func arrival(publisher, sequence, at uint64) Event {
	return Event{Envelope: codec.Envelope{PublisherID: publisher, Sequence: sequence, PublishedAt: at, Payload: make([]byte, 8)}}
}

// drain formats the events to deliver as sequence or sequence(missed).
func drain(s *sequencer) []string {
	var out []string
	for ev, ok := s.next(); ok; ev, ok = s.next() {
		text := fmt.Sprint(ev.Sequence)
		if ev.Missed > 0 {
			text = fmt.Sprintf("%d(%d)", ev.Sequence, ev.Missed)
		}
		out = append(out, text)
	}
	return out
}

func TestSequencer(t *testing.T) {
	t.Parallel()
	type seqs = []uint64
	for name, tc := range map[string]struct {
		multipath bool
		in        seqs
		want      []string // delivered at once
		later     []string // delivered once the reorder timeout has expired
		stats     sequencerStats
	}{
		"in order":                          {false, seqs{0, 1, 2}, []string{"0", "1", "2"}, nil, sequencerStats{}},
		"a late joiner misses nothing":      {false, seqs{7, 8}, []string{"7", "8"}, nil, sequencerStats{}},
		"a gap is reported at once":         {false, seqs{0, 4, 5}, []string{"0", "4(3)", "5"}, nil, sequencerStats{gaps: 1, missed: 3}},
		"a sequence that goes back":         {false, seqs{5, 0, 1, 3}, []string{"5", "0", "1", "3(1)"}, nil, sequencerStats{gaps: 1, missed: 1}},
		"a sequence again":                  {false, seqs{0, 0}, []string{"0", "0"}, nil, sequencerStats{}},
		"the largest sequence":              {false, seqs{0, math.MaxUint64, 0}, []string{"0", "18446744073709551615(18446744073709551614)", "0"}, nil, sequencerStats{gaps: 1, missed: math.MaxUint64 - 1}},
		"missed is bounded":                 {false, seqs{0, math.MaxUint64, 0, math.MaxUint64}, []string{"0", "18446744073709551615(18446744073709551614)", "0", "18446744073709551615(18446744073709551614)"}, nil, sequencerStats{gaps: 2, missed: math.MaxUint64}},
		"two paths":                         {true, seqs{0, 0, 1, 1, 2, 2}, []string{"0", "1", "2"}, nil, sequencerStats{duplicates: 3}},
		"a slow path fills a gap":           {true, seqs{0, 2, 3, 1, 2}, []string{"0", "1", "2", "3"}, nil, sequencerStats{duplicates: 1}},
		"a gap that stays":                  {true, seqs{0, 2, 3, 6}, []string{"0"}, []string{"2(1)", "3", "6(2)"}, sequencerStats{gaps: 2, missed: 3}},
		"the first of a late joiner waits":  {true, seqs{5, 4, 6}, nil, []string{"4", "5", "6"}, sequencerStats{}},
		"a duplicate of what is held":       {true, seqs{0, 2, 2}, []string{"0"}, []string{"2(1)"}, sequencerStats{gaps: 1, missed: 1, duplicates: 1}},
		"the largest sequence on two paths": {true, seqs{0, math.MaxUint64}, []string{"0"}, []string{"18446744073709551615(18446744073709551614)"}, sequencerStats{gaps: 1, missed: math.MaxUint64 - 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSequencer(tc.multipath)
			for _, seq := range tc.in {
				s.add(arrival(1, seq, 0))
			}
			if got := drain(s); !slices.Equal(got, tc.want) {
				t.Errorf("at once %v: want %v", got, tc.want)
			}
			s.advance(reorderTimeout)
			if got := drain(s); !slices.Equal(got, tc.later) {
				t.Errorf("later %v: want %v", got, tc.later)
			}
			if s.stats != tc.stats {
				t.Errorf("stats %+v: want %+v", s.stats, tc.stats)
			}
			if s.held.events != 0 || s.held.bytes != 0 || s.held.timeout() != 0 {
				t.Errorf("reorder buffer %+v: want it empty", s.held)
			}
		})
	}
}

func TestSequencerDistinguishesOutOfOrderFromRestarted(t *testing.T) {
	t.Parallel()
	s := newSequencer(true)
	s.add(arrival(1, 0, 100))
	s.add(arrival(1, 3, 130))
	s.advance(reorderTimeout) // 1 and 2 are counted as missed
	s.add(arrival(1, 2, 120))
	s.add(arrival(1, 6, 160)) // held, from before the restart
	s.add(arrival(1, 1, 200)) // published after all others
	s.add(arrival(1, 2, 201)) // a duplicate: on several paths only messages that the dedup set no longer holds reveal a restart
	want := []string{"0", "3(2)", "6(2)", "1"}
	if got := drain(s); !slices.Equal(got, want) {
		t.Errorf("delivered %v: want %v", got, want)
	}
	if want := (sequencerStats{outOfOrder: 1, duplicates: 1, gaps: 2, missed: 4}); s.stats != want {
		t.Errorf("stats %+v: want %+v", s.stats, want)
	}
}

func TestReorderBufferIsBounded(t *testing.T) {
	t.Parallel()
	s := newSequencer(true)
	for id := range uint64(maxHeldEvents + 10) {
		s.add(arrival(id, 5, 0))
	}
	if got := len(drain(s)); got != 10 || s.held.events != maxHeldEvents {
		t.Errorf("%d delivered, %d held: want 10 and %d", got, s.held.events, maxHeldEvents)
	}

	s = newSequencer(true)
	big := arrival(1, 5, 0)
	big.Payload = make([]byte, maxHeldBytes+1)
	s.add(big)
	if got := drain(s); !slices.Equal(got, []string{"5"}) {
		t.Errorf("delivered %v: want the one that is too large to hold", got)
	}
}

func TestSequencerEvictsTheLeastRecentPeer(t *testing.T) {
	t.Parallel()
	s := newSequencer(true)
	s.limit = 3
	s.add(arrival(1, 5, 0)) // held
	for _, id := range []uint64{2, 3, 2, 4} {
		s.add(arrival(id, 0, 0))
	}
	if got, want := drain(s), []string{"0", "0", "5", "0"}; !slices.Equal(got, want) {
		t.Errorf("delivered %v: want %v", got, want)
	}
	s.add(arrival(5, 0, 0))
	if got := s.publishers(); len(got) != 3 || got[2]+got[4]+got[5] != 0 || len(s.peers) != 3 {
		t.Errorf("publishers %v: want 2, 4 and 5", got)
	}
}

func TestDedupSetEvictsTheOldest(t *testing.T) {
	t.Parallel()
	d := newDedupSet(3)
	for i, step := range []struct {
		sequence uint64
		fresh    bool
	}{{1, true}, {2, true}, {1, false}, {3, true}, {4, true}, {1, true}, {3, false}, {4, false}, {2, true}} {
		if got := d.add(message{1, step.sequence}); got != step.fresh {
			t.Errorf("step %d: add(%d) = %v", i, step.sequence, got)
		}
		if len(d.present) > 3 {
			t.Fatalf("holds %d: want 3", len(d.present))
		}
	}
}

func BenchmarkSequencer(b *testing.B) {
	for _, multipath := range []bool{false, true} {
		b.Run(fmt.Sprintf("multipath=%v", multipath), func(b *testing.B) {
			b.ReportAllocs()
			s := newSequencer(multipath)
			ev := arrival(1, 0, 0)
			for b.Loop() {
				s.add(ev)
				s.next()
				ev.Sequence++
			}
		})
	}
}
