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
		"a sequence that goes back":         {false, seqs{5, 0, 1, 3}, []string{"5", "0", "1", "3(1)"}, nil, sequencerStats{restarts: 1, gaps: 1, missed: 1}},
		"a sequence again":                  {false, seqs{0, 0}, []string{"0", "0"}, nil, sequencerStats{restarts: 1}},
		"the largest sequence":              {false, seqs{0, math.MaxUint64, 0}, []string{"0", "18446744073709551615(18446744073709551614)", "0"}, nil, sequencerStats{restarts: 1, gaps: 1, missed: math.MaxUint64 - 1}},
		"missed is bounded":                 {false, seqs{0, math.MaxUint64, 0, math.MaxUint64}, []string{"0", "18446744073709551615(18446744073709551614)", "0", "18446744073709551615(18446744073709551614)"}, nil, sequencerStats{restarts: 1, gaps: 2, missed: math.MaxUint64}},
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
				s.add(arrival(1, seq, 0), 8)
			}
			if got := drain(s); !slices.Equal(got, tc.want) {
				t.Errorf("at once %v: want %v", got, tc.want)
			}
			s.advance(s.clock + reorderTimeout)
			if got := drain(s); !slices.Equal(got, tc.later) {
				t.Errorf("later %v: want %v", got, tc.later)
			}
			if s.stats != tc.stats {
				t.Errorf("stats %+v: want %+v", s.stats, tc.stats)
			}
			if s.held.events != 0 || s.held.bytes != 0 || s.held.oldest != nil {
				t.Errorf("reorder buffer %+v: want it empty", s.held)
			}
		})
	}
}

// step is an arrival, or the passing of the reorder timeout if at is 0.
type step struct{ sequence, at uint64 }

// TestEpochs has arrivals with times of publishing.
func TestEpochs(t *testing.T) {
	t.Parallel()
	pause := step{}
	for name, tc := range map[string]struct {
		multipath bool
		in        []step
		want      []string
		stats     sequencerStats
	}{
		"late, then a restart that is held": {true, []step{{0, 100}, {3, 130}, pause, {2, 120}, {6, 160}, {1, 200}, {2, 201}, pause},
			[]string{"0", "3(2)", "6(2)", "1", "2"}, sequencerStats{outOfOrder: 1, restarts: 1, gaps: 2, missed: 4}},
		"a restart on two paths": {true, []step{{0, 10}, {0, 10}, {1, 11}, {1, 11}, {0, 20}, {0, 20}, {1, 21}, {1, 21}, {2, 22}},
			[]string{"0", "1", "0", "1", "2"}, sequencerStats{duplicates: 4, restarts: 1}},
		"a stale event of an earlier epoch is neither a gap nor another epoch": {true, []step{{0, 10}, {1, 11}, {4, 14}, pause, {0, 20}, {1, 21}, {1, 11}, {2, 12}, {5, 15}, {6, 12}, {2, 22}, pause},
			[]string{"0", "1", "4(2)", "0", "1", "2"}, sequencerStats{duplicates: 2, outOfOrder: 2, restarts: 1, gaps: 1, missed: 2}},
		"a restart that goes unnoticed at first": {true, []step{{0, 10}, {1, 11}, {2, 20}, {0, 18}, {1, 19}},
			[]string{"0", "1", "2", "0", "1"}, sequencerStats{restarts: 1}},
		"a restart in one millisecond": {true, []step{{0, 10}, {1, 10}, {2, 11}, {0, 11}, {1, 11}, {2, 11}},
			[]string{"0", "1", "2", "0", "1", "2"}, sequencerStats{restarts: 1}},
		"stale events do not start a newcomer": {true, []step{{50, 1000}, {51, 1001}, {900, 9000}, {901, 9001}, pause},
			[]string{"900", "901"}, sequencerStats{outOfOrder: 2}},
		"stale events of a longer epoch do not start a newcomer": {true, []step{{900, 1000}, {901, 1001}, {50, 9000}, {51, 9001}, pause},
			[]string{"50", "51"}, sequencerStats{outOfOrder: 2}},
		"a newcomer's gap is reported": {true, []step{{50, 1000}, {52, 1002}, pause},
			[]string{"50", "52(1)"}, sequencerStats{gaps: 1, missed: 1}},
		"a duplicate on a single path, such as by two names of one broker": {false, []step{{0, 10}, {1, 11}, {2, 12}, {0, 10}, {1, 11}, {3, 13}, {2, 12}, {3, 13}},
			[]string{"0", "1", "2", "3"}, sequencerStats{duplicates: 4}},
		"a restart on a single path": {false, []step{{0, 10}, {1, 11}, {0, 20}, {2, 22}},
			[]string{"0", "1", "0", "2(1)"}, sequencerStats{restarts: 1, gaps: 1, missed: 1}},
		"a restart with a clock that went back": {false, []step{{7, 10}, {8, 11}, {0, 5}, {1, 6}},
			[]string{"7", "8", "0", "1"}, sequencerStats{restarts: 1}},
		"a clock that goes back": {true, []step{{0, 100}, {1, 50}, {2, 51}, {1, 50}},
			[]string{"0", "1", "2"}, sequencerStats{duplicates: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSequencer(tc.multipath)
			for _, in := range tc.in {
				if in == pause {
					s.advance(s.clock + reorderTimeout)
				} else {
					s.add(arrival(1, in.sequence, in.at), 8)
				}
			}
			if got := drain(s); !slices.Equal(got, tc.want) {
				t.Errorf("delivered %v: want %v", got, tc.want)
			}
			if s.stats != tc.stats {
				t.Errorf("stats %+v: want %+v", s.stats, tc.stats)
			}
		})
	}
}

// The times of sequences that left the window, or never were in it, decide nothing.
func TestStampsAreAWindow(t *testing.T) {
	t.Parallel()
	s := newSequencer(true)
	const last = 3 * maxStamps
	s.add(arrival(1, 0, 1), 8)
	s.add(arrival(1, 1000, 1001), 8) // wider than the window at that time
	s.advance(s.clock + reorderTimeout)
	for seq := uint64(1001); seq <= last; seq++ {
		s.add(arrival(1, seq, seq+1), 8)
	}
	s.out, s.outAt = nil, 0
	for _, seq := range []uint64{0, 1, 990, 1001, last - maxStamps, last - maxStamps + 1, last} {
		s.add(arrival(1, seq, seq+1), 8)
	}
	if got := drain(s); got != nil || s.stats.duplicates != 7 {
		t.Errorf("delivered %v, stats %+v: want 7 duplicates", got, s.stats)
	}
	if got := len(s.peers[1].epoch.stamps); got != maxStamps || s.stampBytes != 8*maxStamps {
		t.Errorf("%d stamps, %d bytes counted: want %d", got, s.stampBytes, maxStamps)
	}
}

func TestStampsOfAllPublishersAreBounded(t *testing.T) {
	t.Parallel()
	s := newSequencer(false)
	s.stampLimit = 20 * 8 * maxStamps
	for id := range uint64(30) {
		for seq := range uint64(2 * maxStamps) {
			s.add(arrival(id, seq, seq+1), 8)
			s.out, s.outAt = s.out[:0], 0
		}
	}
	if s.stampBytes != s.stampLimit {
		t.Errorf("%d bytes: want %d", s.stampBytes, s.stampLimit)
	}
	for len(s.peers) > 0 {
		s.evict(s.recent.prev)
	}
	if s.stampBytes != 0 {
		t.Errorf("%d bytes without publishers: want 0", s.stampBytes)
	}
}

func TestReorderBufferIsBounded(t *testing.T) {
	t.Parallel()
	s := newSequencer(true)
	for id := range uint64(maxHeldEvents + 10) {
		s.add(arrival(id, 5, 0), 8)
	}
	if got := len(drain(s)); got != 10 || s.held.events != maxHeldEvents {
		t.Errorf("%d delivered, %d held: want 10 and %d", got, s.held.events, maxHeldEvents)
	}

	s = newSequencer(true)
	big := arrival(1, 5, 0)
	big.Payload = make([]byte, maxHeldBytes+1)
	s.add(big, len(big.Payload))
	if got := drain(s); !slices.Equal(got, []string{"5"}) {
		t.Errorf("delivered %v: want the one that is too large to hold", got)
	}
}

func TestSequencerEvictsTheLeastRecentPeer(t *testing.T) {
	t.Parallel()
	s := newSequencer(true)
	s.limit = 3
	s.add(arrival(1, 5, 0), 8) // held
	for _, id := range []uint64{2, 3, 2, 4} {
		s.add(arrival(id, 0, 0), 8)
	}
	if got, want := drain(s), []string{"0", "0", "5", "0"}; !slices.Equal(got, want) {
		t.Errorf("delivered %v: want %v", got, want)
	}
	s.add(arrival(5, 0, 0), 8)
	if got, _ := s.publishers(0); len(got) != 3 || got[2]+got[4]+got[5] != 0 || len(s.peers) != 3 {
		t.Errorf("publishers %v: want 2, 4 and 5", got)
	}
}

func BenchmarkSequencer(b *testing.B) {
	for _, multipath := range []bool{false, true} {
		b.Run(fmt.Sprintf("multipath=%v", multipath), func(b *testing.B) {
			b.ReportAllocs()
			s := newSequencer(multipath)
			ev := arrival(1, 0, 0)
			for b.Loop() {
				s.add(ev, 8)
				s.next()
				ev.Sequence++
			}
		})
	}
}

// A control message is the starting point of a publisher's events, also without replay.
func TestFirstEventsOfAnnouncedPublisherAreCounted(t *testing.T) {
	t.Parallel()
	s := newSequencer(false)
	s.control(1, 5, 999)
	s.dropped(3, 8)
	s.add(arrival(1, 90, 1000), 8)
	s.add(arrival(2, 90, 1000), 8)
	s.add(arrival(3, 90, 1000), 8)
	if got, want := drain(s), []string{"90(85)", "90", "90(82)"}; !slices.Equal(got, want) {
		t.Errorf("delivered %v: want %v", got, want)
	}
	if !s.peers[1].announces || s.peers[3].announces {
		t.Error("publisher 1 announces its events, 3 does not: want that to be known")
	}
}

func TestControlMessagesEvictNoPublisherThatHasStarted(t *testing.T) {
	t.Parallel()
	for _, multipath := range []bool{false, true} {
		s := newSequencer(multipath)
		s.recoverer.start = func(*slice) {}
		s.limit = 10
		s.add(arrival(1, 0, 1000), 8)
		s.add(arrival(2, 0, 1000), 8)
		for id := range uint64(100) {
			s.control(100+id, 5, 999)
		}
		s.add(arrival(3, 0, 1000), 8)
		for id := range uint64(100) {
			s.control(300+id, 5, 999)
		}
		last, _ := s.publishers(0)
		if len(last) != 3 || len(s.peers) != s.limit {
			t.Errorf("multipath %v: %d of %d publishers have started: want 3 of %d", multipath, len(last), len(s.peers), s.limit)
		}
	}
}

// A forged tick, or one of an earlier epoch, does not end the life of a publisher.
func TestEventsAfterAForgedTickAreDelivered(t *testing.T) {
	t.Parallel()
	for _, multipath := range []bool{false, true} {
		s := newSequencer(multipath)
		s.add(arrival(1, 0, 1000), 8)
		s.add(arrival(1, 1, 1001), 8)
		s.control(1, 1<<60, 1001)
		s.advance(s.clock + reorderTimeout)
		const last = 10_000
		for seq := uint64(3); seq <= last; seq++ {
			s.add(arrival(1, seq, 1001+seq/10), 8)
			if seq == 3 {
				s.advance(s.clock + reorderTimeout)
			}
		}
		got := drain(s)
		if n := len(got); n != last || got[2] != "3(1)" || s.stats.missed != 1 || s.stats.gaps != 1 || s.stats.restarts != 0 {
			t.Errorf("multipath %v: %d events delivered, stats %+v: want %d, with 1 missed", multipath, n, s.stats, last)
		}
	}
}

// Ticks of one publisher, however many, do not end the wait of another's events.
func TestManyTicksLeaveRoomForEvents(t *testing.T) {
	t.Parallel()
	s := newSequencer(true)
	for id := range uint64(3) {
		s.add(arrival(id, 0, 1000), 8)
	}
	s.add(arrival(0, 2, 1002), 8) // 1 is on the slower path
	for range maxHeldEvents + 1 {
		s.control(1, 1<<40, 1001)
	}
	s.add(arrival(2, 2, 1002), 8)
	s.add(arrival(0, 1, 1001), 8)
	if s.stats.outOfOrder > 0 || s.stats.missed > 0 {
		t.Errorf("stats %+v: want no event late or missed", s.stats)
	}
}
