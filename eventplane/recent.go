package eventplane

// message names one event of one publisher.
type message struct{ publisher, sequence uint64 }

// recent remembers the last messages it was shown, up to a capacity. Being
// shown again does not make a message more recent.
type recent struct {
	capacity int
	ring     []message
	oldest   int
	set      map[message]struct{}
}

func newRecent(capacity int) *recent {
	return &recent{capacity: capacity, set: map[message]struct{}{}}
}

// add reports whether m is new.
func (r *recent) add(m message) bool {
	if _, ok := r.set[m]; ok {
		return false
	}
	r.set[m] = struct{}{}
	if len(r.ring) < r.capacity {
		r.ring = append(r.ring, m)
		return true
	}
	delete(r.set, r.ring[r.oldest])
	r.ring[r.oldest] = m
	r.oldest = (r.oldest + 1) % r.capacity
	return true
}
