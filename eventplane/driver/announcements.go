package driver

// maxAnnounced bounds the publishers that a queue remembers: their ids are input from
// the network.
const maxAnnounced = 65_536

// announcements are control messages in place of the first item of each publisher that
// a queue has dropped, so that the loss is noticed although the subscriber may have
// received nothing of it before. The zero value announces nothing.
type announcements[T any] struct {
	control func(T) (publisher uint64, control T, ok bool)

	early map[uint64]T        // precede all items of the queue
	late  map[uint64]T        // follow them
	done  map[uint64]struct{} // publishers that need no further announcement
}

// Announce makes the queue return a control message in place of the first item that it
// drops of each publisher. The function returns the message, whose sequence is that of
// the item. It must be called before the first item is pushed.
func (q *Queue[T]) Announce(control func(T) (publisher uint64, control T, ok bool)) {
	q.announced.control = control
}

// Rejected is called with an item that was not admitted.
func (q *Queue[T]) Rejected(item T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.announced.add(&q.announced.late, item)
	}
}

// add records that an item is dropped.
func (a *announcements[T]) add(to *map[uint64]T, item T) {
	if a.control == nil {
		return
	}
	publisher, control, ok := a.control(item)
	if !ok || len(*to) >= maxAnnounced {
		return
	}
	_, known := (*to)[publisher]
	if _, done := a.done[publisher]; known || done {
		return
	}
	if *to == nil {
		*to = map[uint64]T{}
	}
	(*to)[publisher] = control
}

// take removes and returns a message of one of the maps.
func (a *announcements[T]) take(from map[uint64]T) (control T, ok bool) {
	for publisher, control := range from {
		delete(from, publisher)
		if len(a.done) >= maxAnnounced || a.done == nil {
			a.done = map[uint64]struct{}{}
		}
		a.done[publisher] = struct{}{}
		return control, true
	}
	return control, false
}

// len returns the number of messages that wait.
func (a *announcements[T]) len() int { return len(a.early) + len(a.late) }
