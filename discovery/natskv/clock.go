package natskv

import (
	"sync"
	"time"
)

// clockWarning is the offset between the local and the server's clock above
// which the store logs a warning.
const clockWarning = 500 * time.Millisecond

// serverClock returns the server's time. It advances with the local monotonic
// clock since the last measurement, so that a step of the local wall clock has
// no effect. It is safe for concurrent use.
type serverClock struct {
	now func() time.Time

	mu       sync.Mutex
	local    time.Time
	server   time.Time
	measured time.Time // when set was last called, by the monotonic clock
}

// set takes a time stamp of the server that was requested at t0 and received
// at t1. It reports whether this is the first one, and how far the local clock
// is behind.
func (c *serverClock) set(stamp, t0, t1 time.Time) (first bool, offset time.Duration) {
	rtt := t1.Sub(t0)
	local := t0.Add(rtt / 2)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.measured = time.Now()
	first = c.local.IsZero()
	// A stamp with a long round trip is inaccurate; the previous one is better.
	if first || rtt < time.Second {
		c.local, c.server = local, stamp
	}
	return first, stamp.Sub(local)
}

func (c *serverClock) serverNow() time.Time {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server.Add(now.Sub(c.local))
}

// measuredAt returns when the server's time was last received.
func (c *serverClock) measuredAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.measured
}
