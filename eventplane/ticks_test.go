package eventplane

import (
	"fmt"
	"slices"
	"testing"
)

// TestTicks has events, and ticks, which announce that all before a sequence were
// published, the last one at a time.
func TestTicks(t *testing.T) {
	t.Parallel()
	event := func(sequence, at uint64) func(*sequencer) {
		return func(s *sequencer) { s.add(arrival(1, sequence, at), 8) }
	}
	tick := func(next, at uint64) func(*sequencer) {
		return func(s *sequencer) { s.control(1, next, at) }
	}
	pause := func(s *sequencer) { s.advance(s.clock + reorderTimeout) }
	for name, tc := range map[string]struct {
		in    []func(*sequencer)
		want  []string
		stats sequencerStats
	}{
		"a lost tail": {[]func(*sequencer){event(0, 100), tick(2, 110), tick(2, 110), pause, event(2, 120)},
			[]string{"0", "2(1)"}, sequencerStats{gaps: 1, missed: 1}},
		"an epoch that was lost whole, with as many events": {[]func(*sequencer){event(0, 100), event(1, 101), tick(2, 101), tick(2, 201), pause, tick(2, 201), event(2, 210)},
			[]string{"0", "1", "2"}, sequencerStats{restarts: 1}},
		"an epoch that was lost whole, with fewer": {[]func(*sequencer){event(0, 100), event(1, 101), tick(1, 201), pause, event(1, 202)},
			[]string{"0", "1", "1"}, sequencerStats{restarts: 1}},
		"after a lost tail": {[]func(*sequencer){event(0, 100), tick(3, 103), pause, tick(3, 103), tick(2, 202), pause, event(2, 210)},
			[]string{"0", "2(2)"}, sequencerStats{restarts: 1, gaps: 1, missed: 2}},
		"a restart, and then a lost tail": {[]func(*sequencer){event(0, 100), event(1, 101), event(0, 200), tick(2, 210), pause, event(2, 220)},
			[]string{"0", "1", "0", "2(1)"}, sequencerStats{restarts: 1, gaps: 1, missed: 1}},
	} {
		for _, multipath := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/multipath=%v", name, multipath), func(t *testing.T) {
				t.Parallel()
				s := newSequencer(multipath)
				for _, do := range tc.in {
					do(s)
				}
				s.flush()
				if got := drain(s); !slices.Equal(got, tc.want) || s.stats != tc.stats {
					t.Errorf("delivered %v, stats %+v: want %v, %+v", got, s.stats, tc.want, tc.stats)
				}
			})
		}
	}
}

// A broker that was away may deliver a tick of an earlier epoch at any time.
func TestStaleTicksAnnounceNothing(t *testing.T) {
	t.Parallel()
	for name, began := range map[string]bool{"the earlier epoch was received": true, "it was not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSequencer(true)
			if began {
				s.add(arrival(1, 0, 90), 8)
			}
			for seq := range uint64(5) {
				s.add(arrival(1, seq, 200+seq), 8)
				s.control(1, 100, 150)
				s.control(1, 1, 91)
				s.advance(s.clock + reorderTimeout)
			}
			drain(s)
			if s.stats.missed != 0 || s.peers[1].epoch.last != 4 {
				t.Errorf("last %d, stats %+v: want 4, and none missed", s.peers[1].epoch.last, s.stats)
			}
		})
	}
}
