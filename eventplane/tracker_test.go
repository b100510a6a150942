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

// drain writes what is to be delivered as sequence or sequence(missed).
func drain(t *tracker) []string {
	var out []string
	for ev, ok := t.next(); ok; ev, ok = t.next() {
		s := fmt.Sprint(ev.Sequence)
		if ev.Missed > 0 {
			s = fmt.Sprintf("%d(%d)", ev.Sequence, ev.Missed)
		}
		out = append(out, s)
	}
	return out
}

func TestTracker(t *testing.T) {
	t.Parallel()
	type seqs = []uint64
	for name, tc := range map[string]struct {
		several bool
		in      seqs
		want    []string // delivered at once
		later   []string // delivered once the window is over
		stats   trackerStats
	}{
		"in order":                          {false, seqs{0, 1, 2}, []string{"0", "1", "2"}, nil, trackerStats{}},
		"a late joiner misses nothing":      {false, seqs{7, 8}, []string{"7", "8"}, nil, trackerStats{}},
		"a gap is told at once":             {false, seqs{0, 4, 5}, []string{"0", "4(3)", "5"}, nil, trackerStats{gaps: 1, missed: 3}},
		"a sequence that goes back":         {false, seqs{5, 0, 1, 3}, []string{"5", "0", "1", "3(1)"}, nil, trackerStats{gaps: 1, missed: 1}},
		"a sequence again":                  {false, seqs{0, 0}, []string{"0", "0"}, nil, trackerStats{}},
		"the largest sequence":              {false, seqs{0, math.MaxUint64, 0}, []string{"0", "18446744073709551615(18446744073709551614)", "0"}, nil, trackerStats{gaps: 1, missed: math.MaxUint64 - 1}},
		"missed is bounded":                 {false, seqs{0, math.MaxUint64, 0, math.MaxUint64}, []string{"0", "18446744073709551615(18446744073709551614)", "0", "18446744073709551615(18446744073709551614)"}, nil, trackerStats{gaps: 2, missed: math.MaxUint64}},
		"two paths":                         {true, seqs{0, 0, 1, 1, 2, 2}, []string{"0", "1", "2"}, nil, trackerStats{duplicates: 3}},
		"a slow path fills a gap":           {true, seqs{0, 2, 3, 1, 2}, []string{"0", "1", "2", "3"}, nil, trackerStats{duplicates: 1}},
		"nobody fills a gap":                {true, seqs{0, 2, 3, 6}, []string{"0"}, []string{"2(1)", "3", "6(2)"}, trackerStats{gaps: 2, missed: 3}},
		"the first of a late joiner waits":  {true, seqs{5, 4, 6}, nil, []string{"4", "5", "6"}, trackerStats{}},
		"a duplicate of what is held":       {true, seqs{0, 2, 2}, []string{"0"}, []string{"2(1)"}, trackerStats{gaps: 1, missed: 1, duplicates: 1}},
		"the largest sequence on two paths": {true, seqs{0, math.MaxUint64}, []string{"0"}, []string{"18446744073709551615(18446744073709551614)"}, trackerStats{gaps: 1, missed: math.MaxUint64 - 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTracker(tc.several)
			for _, seq := range tc.in {
				tr.offer(arrival(1, seq, 0))
			}
			if got := drain(tr); !slices.Equal(got, tc.want) {
				t.Errorf("at once %v: want %v", got, tc.want)
			}
			tr.advance(windowTime)
			if got := drain(tr); !slices.Equal(got, tc.later) {
				t.Errorf("later %v: want %v", got, tc.later)
			}
			if tr.stats != tc.stats {
				t.Errorf("stats %+v: want %+v", tr.stats, tc.stats)
			}
			if tr.window.events != 0 || tr.window.bytes != 0 || tr.window.left() != 0 {
				t.Errorf("window %+v: want it empty", tr.window)
			}
		})
	}
}

func TestTrackerTellsLateFromRestarted(t *testing.T) {
	t.Parallel()
	tr := newTracker(true)
	tr.offer(arrival(1, 0, 100))
	tr.offer(arrival(1, 3, 130))
	tr.advance(windowTime) // gives up 1 and 2
	tr.offer(arrival(1, 2, 120))
	tr.offer(arrival(1, 6, 160)) // held, of the old incarnation
	tr.offer(arrival(1, 1, 200)) // later than all
	tr.offer(arrival(1, 2, 201)) // known as a duplicate: restarts on several paths are only found beyond what is remembered
	want := []string{"0", "3(2)", "6(2)", "1"}
	if got := drain(tr); !slices.Equal(got, want) {
		t.Errorf("delivered %v: want %v", got, want)
	}
	if want := (trackerStats{late: 1, duplicates: 1, gaps: 2, missed: 4}); tr.stats != want {
		t.Errorf("stats %+v: want %+v", tr.stats, want)
	}
}

func TestWindowIsBounded(t *testing.T) {
	t.Parallel()
	tr := newTracker(true)
	for id := range uint64(windowEvents + 10) {
		tr.offer(arrival(id, 5, 0))
	}
	if got := len(drain(tr)); got != 10 || tr.window.events != windowEvents {
		t.Errorf("%d delivered, %d held: want 10 and %d", got, tr.window.events, windowEvents)
	}

	tr = newTracker(true)
	big := arrival(1, 5, 0)
	big.Payload = make([]byte, windowBytes+1)
	tr.offer(big)
	if got := drain(tr); !slices.Equal(got, []string{"5"}) {
		t.Errorf("delivered %v: want the one that is too large to hold", got)
	}
}

func TestTrackerForgetsWhoIsLongUnheard(t *testing.T) {
	t.Parallel()
	tr := newTracker(true)
	tr.limit = 3
	tr.offer(arrival(1, 5, 0)) // held
	for _, id := range []uint64{2, 3, 2, 4} {
		tr.offer(arrival(id, 0, 0))
	}
	if got, want := drain(tr), []string{"0", "0", "5", "0"}; !slices.Equal(got, want) {
		t.Errorf("delivered %v: want %v", got, want)
	}
	tr.offer(arrival(5, 0, 0))
	if got := tr.publishers(); len(got) != 3 || got[2]+got[4]+got[5] != 0 || len(tr.peers) != 3 {
		t.Errorf("publishers %v: want 2, 4 and 5", got)
	}
}

func TestRecentForgetsTheOldest(t *testing.T) {
	t.Parallel()
	r := newRecent(3)
	for i, step := range []struct {
		sequence uint64
		fresh    bool
	}{{1, true}, {2, true}, {1, false}, {3, true}, {4, true}, {1, true}, {3, false}, {4, false}, {2, true}} {
		if got := r.add(message{1, step.sequence}); got != step.fresh {
			t.Errorf("step %d: add(%d) = %v", i, step.sequence, got)
		}
		if len(r.set) > 3 {
			t.Fatalf("remembers %d: want 3", len(r.set))
		}
	}
}

func BenchmarkTracker(b *testing.B) {
	for _, several := range []bool{false, true} {
		b.Run(fmt.Sprintf("several=%v", several), func(b *testing.B) {
			b.ReportAllocs()
			tr := newTracker(several)
			ev := arrival(1, 0, 0)
			for b.Loop() {
				tr.offer(ev)
				tr.next()
				ev.Sequence++
			}
		})
	}
}
