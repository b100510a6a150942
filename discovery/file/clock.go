package file

import (
	"sync"
	"time"
)

// clockStep is a step of the wall clock that no clock makes by itself.
const clockStep = 500 * time.Millisecond

// pulse notices when the ages of files say nothing about their owners: after
// the clock was set, or after this process did not run for a while, since then
// theirs may not have run either (a suspended machine, a frozen container).
type pulse struct {
	patience  time.Duration // the longest time between two beats in quiet times
	calmAfter time.Duration // how long after a disturbance ages are believed again

	mu        sync.Mutex
	last      time.Time
	disturbed time.Time
}

// beat is called by whoever runs, and returns the time.
func (p *pulse) beat() time.Time {
	now := time.Now()
	p.note(now, now.Round(0))
	return now
}

// note takes the time by the monotonic and by the wall clock.
func (p *pulse) note(now, wall time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.last.IsZero() {
		passed := now.Sub(p.last)
		if step := wall.Sub(p.last.Round(0)) - passed; passed > p.patience || step.Abs() > clockStep {
			p.disturbed = now
		}
	}
	p.last = now
}

// calm reports whether there was no disturbance for long enough.
func (p *pulse) calm(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.disturbed.IsZero() || now.Sub(p.disturbed) >= p.calmAfter
}
