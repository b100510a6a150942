package eventplane

import "time"

// The window waits no longer for an event than windowTime, and keeps no more
// than windowEvents and windowBytes, whoever the publishers are.
//
// Its clock runs only while the subscriber waits for messages. While the
// application is busy, what fills the gap may lie in the transport's queue, and
// is found there before the time is over.
const (
	windowTime   = 100 * time.Millisecond
	windowEvents = 16_384
	windowBytes  = 32 << 20
)

// window is a list of the events that wait for a gap before them to be filled,
// in the order in which they arrived, which is that in which their time is over.
type window struct {
	oldest, newest *heldEvent
	events, bytes  int
	clock          time.Duration
}

type heldEvent struct {
	peer       *peer
	event      Event
	until      time.Duration // on the clock of the window
	prev, next *heldEvent
}

func (w *window) add(h *heldEvent) {
	h.until = w.clock + windowTime
	h.prev = w.newest
	if h.prev == nil {
		w.oldest = h
	} else {
		h.prev.next = h
	}
	w.newest = h
	w.events++
	w.bytes += len(h.event.Payload)
}

// remove takes an event out, wherever it stands.
func (w *window) remove(h *heldEvent) {
	if h.prev == nil {
		w.oldest = h.next
	} else {
		h.prev.next = h.next
	}
	if h.next == nil {
		w.newest = h.prev
	} else {
		h.next.prev = h.prev
	}
	w.events--
	w.bytes -= len(h.event.Payload)
}

func (w *window) full() bool { return w.events > windowEvents || w.bytes > windowBytes }

// left is how long the oldest event still waits; 0 is that there is none.
func (w *window) left() time.Duration {
	if w.oldest == nil {
		return 0
	}
	return max(w.oldest.until-w.clock, 1)
}
