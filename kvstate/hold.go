package kvstate

// held are the live events of one rank that arrived while its worker is being
// queried, as they were sent. It is a prefix of what arrived: after the first event
// that does not fit, none is added, since the worker is queried again from there.
type held struct {
	data []byte
	ends []int // of each event in data
	full bool
}

// budget bounds the bytes that all ranks hold.
type budget struct {
	each, all int // bounds
	used      int
}

// add copies an event.
func (h *held) add(b *budget, raw []byte) {
	const overhead = 8 // of ends
	size := len(raw) + overhead
	if h.full = h.full || h.size()+size > b.each || b.used+size > b.all; h.full {
		return
	}
	h.data = append(h.data, raw...)
	h.ends = append(h.ends, len(h.data))
	b.used += size
}

func (h *held) size() int { return len(h.data) + 8*len(h.ends) }

// take returns the events and releases their memory.
func (h *held) take(b *budget) held {
	taken := *h
	b.used -= taken.size()
	*h = held{}
	return taken
}
