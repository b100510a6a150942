package eventplane

import "time"

// An event behind a gap waits for the other paths for reorderTimeout, or for
// recoverTimeout if the gap can be recovered otherwise. The bounds of all held
// events together, and of those of one publisher whose gap is being recovered,
// count the bodies of messages.
const (
	reorderTimeout   = 100 * time.Millisecond
	recoverTimeout   = 50 * time.Millisecond
	maxHeldEvents    = 16_384
	maxHeldBytes     = 32 << 20
	maxHeldEventsOf  = 4096
	maxHeldBytesOf   = 4 << 20
	maxSlicesOf      = 2
	maxSlices        = 256 // of all publishers
	maxRoundsBehind  = 3
	minRoundsCounted = maxHeldEventsOf
	minSilence       = time.Second // without recovery
	maxSilence       = time.Minute
)

// staleAfter is the time in milliseconds that no event waits on its way unless a
// broker was away.
const staleAfter = 1000

// reorderBuffer has the bounds of the events that are held, and the list of those
// that wait for another path. The list is in order of arrival, which is also the
// order in which the deadlines expire.
type reorderBuffer struct {
	timeout        time.Duration
	oldest, newest *heldEvent
	events, bytes  int
}

// heldEvent is an event that is held behind a gap: an element of its peer's held.
// A tick is an element of the list only; its event has the announcement.
type heldEvent struct {
	peer     *peer
	event    Event
	size     int // of the message
	tick     bool
	replayed bool

	deadline   time.Duration // valid while the element is in the list
	listed     bool
	prev, next *heldEvent
}

// add counts an event, and appends it to the list if it has to wait.
func (b *reorderBuffer) add(h *heldEvent, now time.Duration, waits bool) {
	b.events++
	b.bytes += h.size
	h.peer.heldBytes += h.size
	if !waits {
		return
	}
	h.listed, h.deadline, h.prev = true, now+b.timeout, b.newest
	if h.prev == nil {
		b.oldest = h
	} else {
		h.prev.next = h
	}
	b.newest = h
}

// remove removes an event that is no longer held.
func (b *reorderBuffer) remove(h *heldEvent) {
	b.unlist(h)
	b.events--
	b.bytes -= h.size
	h.peer.heldBytes -= h.size
}

// unlist ends the wait of an event.
func (b *reorderBuffer) unlist(h *heldEvent) {
	if !h.listed {
		return
	}
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
	h.listed, h.prev, h.next = false, nil, nil
}

// full reports whether the bounds are exceeded.
func (b *reorderBuffer) full() bool { return b.events > maxHeldEvents || b.bytes > maxHeldBytes }

// fullWith reports whether another event of p would exceed the bounds.
func (b *reorderBuffer) fullWith(p *peer, size int) bool {
	return b.events >= maxHeldEvents || b.bytes+size > maxHeldBytes ||
		len(p.held) >= maxHeldEventsOf || p.heldBytes+size > maxHeldBytesOf
}
