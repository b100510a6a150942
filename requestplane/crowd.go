package requestplane

import (
	"container/list"
	"sync"
	"sync/atomic"
)

// crowd is a bounded set of things that peers hold, in the order of arrival. A
// newcomer to a full crowd replaces the oldest: of honest peers, which are done
// in a moment, it takes as many newcomers to replace one.
type crowd struct {
	max     int
	evicted *atomic.Uint64

	mu      sync.Mutex
	members list.List // of func()
	closed  bool
}

// add adds a member, and returns the function that removes it, which is
// idempotent. end is called, once, if the member is replaced or the crowd closed.
func (c *crowd) add(end func()) (leave func()) {
	c.mu.Lock()
	var replaced func()
	switch {
	case c.closed:
		c.mu.Unlock()
		end()
		return func() {}
	case c.members.Len() >= c.max:
		replaced, _ = c.members.Remove(c.members.Front()).(func())
		c.evicted.Add(1)
	}
	member := c.members.PushBack(end)
	c.mu.Unlock()
	if replaced != nil {
		replaced()
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.members.Remove(member) // no effect if it has been removed
	}
}

// close ends all members, and newcomers at once.
func (c *crowd) close() {
	c.mu.Lock()
	c.closed = true
	var ends []func()
	for e := c.members.Front(); e != nil; e = c.members.Front() {
		end, _ := c.members.Remove(e).(func())
		ends = append(ends, end)
	}
	c.mu.Unlock()
	for _, end := range ends {
		end()
	}
}
