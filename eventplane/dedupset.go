package eventplane

// message identifies one event of one publisher.
type message struct{ publisher, sequence uint64 }

// dedupSet holds the messages that were added last, up to a capacity. Adding a
// message again does not make it more recent.
type dedupSet struct {
	capacity int
	order    []message // circular once it is full
	oldest   int       // index in order
	present  map[message]struct{}
}

func newDedupSet(capacity int) *dedupSet {
	return &dedupSet{capacity: capacity, present: map[message]struct{}{}}
}

// add adds m and reports whether it was absent.
func (d *dedupSet) add(m message) bool {
	if _, ok := d.present[m]; ok {
		return false
	}
	d.present[m] = struct{}{}
	if len(d.order) < d.capacity {
		d.order = append(d.order, m)
		return true
	}
	delete(d.present, d.order[d.oldest])
	d.order[d.oldest] = m
	d.oldest = (d.oldest + 1) % d.capacity
	return true
}
