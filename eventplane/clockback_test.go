package eventplane

import (
	"testing"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// The clock of a publisher goes back by a second, in a gap or before it. All events
// replayed are of the epoch.
func TestReplayAfterTheClockWentBack(t *testing.T) {
	t.Parallel()
	const gap = 2*driver.MaxReplay + 100
	for name, tc := range map[string]struct{ before, replayed, after uint64 }{
		"in a gap":           {5000, 5001, 4002},
		"before a gap":       {4000, 4001, 4002},
		"at the gap's begin": {5000, 4001, 4002},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSequencer(false)
			var requested []*slice
			s.recoverer = recoverer{start: func(sl *slice) { requested = append(requested, sl) }}
			s.add(arrival(1, 0, 4990), 8)
			s.add(arrival(1, 1, tc.before), 8)
			s.add(arrival(1, 2+gap, tc.after), 8)
			for rounds := 0; len(requested) > 0 && rounds < 20; rounds++ {
				sl := requested[len(requested)-1] // the second of two slices is answered first
				requested = requested[:len(requested)-1]
				if sl.overlap {
					at := tc.replayed
					if sl.first == 2 {
						at = tc.before
					}
					s.replayed(sl, arrival(1, sl.first-1, at), 8)
				}
				for seq := sl.first; seq <= sl.last; seq++ {
					s.replayed(sl, arrival(1, seq, tc.replayed), 8)
				}
				s.finish(sl, false)
			}
			n := 0
			for _, ok := s.next(); ok; _, ok = s.next() {
				n++
			}
			if n != gap+3 || s.stats.missed != 0 || s.stats.restarts != 0 {
				t.Errorf("%d events, stats %+v: want %d, all that were replayed", n, s.stats, gap+3)
			}
		})
	}
}
