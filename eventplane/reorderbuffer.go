package eventplane

import "time"

// The reorder buffer holds an event for reorderTimeout at most, and no more
// than maxHeldEvents and maxHeldBytes for all publishers together.
//
// Its clock runs only while the subscriber waits for messages. While the
// application is busy, the event that fills a gap may be in the transport's
// queue, where it is found before the timeout expires.
const (
	reorderTimeout = 100 * time.Millisecond
	maxHeldEvents  = 16_384
	maxHeldBytes   = 32 << 20
)

// staleAfter is the time in milliseconds that no event waits on its way unless a
// broker was away.
const staleAfter = 1000

// reorderBuffer is the list of the events that wait for a gap before them to
// be filled. It is in order of arrival, which is also the order in which the
// timeouts expire.
type reorderBuffer struct {
	oldest, newest *heldEvent
	events, bytes  int
	clock          time.Duration
}

// heldEvent is an element of the reorder buffer, and of its peer's held.
type heldEvent struct {
	peer       *peer
	event      Event
	deadline   time.Duration // on the clock of the reorder buffer
	prev, next *heldEvent
}

// add appends an event.
func (b *reorderBuffer) add(h *heldEvent) {
	h.deadline = b.clock + reorderTimeout
	h.prev = b.newest
	if h.prev == nil {
		b.oldest = h
	} else {
		h.prev.next = h
	}
	b.newest = h
	b.events++
	b.bytes += len(h.event.Payload)
}

// remove removes an event from any position.
func (b *reorderBuffer) remove(h *heldEvent) {
	if h.prev == nil {
		b.oldest = h.next
	} else {
		h.prev.next = h.next
	}
	if h.next == nil {
		b.newest = h.prev
	} else {
		h.next.prev = h.prev
	}
	b.events--
	b.bytes -= len(h.event.Payload)
}

// full reports whether an event must be released early.
func (b *reorderBuffer) full() bool { return b.events > maxHeldEvents || b.bytes > maxHeldBytes }

// timeout returns the time until the deadline of the oldest event, which is
// positive, or 0 if the buffer is empty.
func (b *reorderBuffer) timeout() time.Duration {
	if b.oldest == nil {
		return 0
	}
	return max(b.oldest.deadline-b.clock, 1)
}
