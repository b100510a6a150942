package file

import (
	"sync"
	"time"
)

// clockStep is a step of the wall clock that no clock takes by itself.
const clockStep = 500 * time.Millisecond

// clockMonitor detects when the ages of files prove nothing about their owners:
// after the wall clock was set, or after this process did not run for a while,
// since the owners may not have run either (a suspended machine, a frozen
// container). It is safe for concurrent use.
type clockMonitor struct {
	maxPause time.Duration // between two observations, unless the process was stopped
	distrust time.Duration // how long ages prove nothing after a pause or a step

	mu        sync.Mutex
	last      time.Time
	lastFault time.Time // the last pause or step; zero if there was none
}

// observe returns the time. It must be called at least once per maxPause.
func (c *clockMonitor) observe() time.Time {
	now := time.Now()
	c.observeAt(now, now.Round(0))
	return now
}

// observeAt takes the time of the monotonic and of the wall clock.
func (c *clockMonitor) observeAt(now, wall time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.last.IsZero() {
		passed := now.Sub(c.last)
		step := wall.Sub(c.last.Round(0)) - passed
		if passed > c.maxPause || step.Abs() > clockStep {
			c.lastFault = now
		}
	}
	c.last = now
}

// trusted reports whether the ages of files can be trusted at a time.
func (c *clockMonitor) trusted(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastFault.IsZero() || now.Sub(c.lastFault) >= c.distrust
}
