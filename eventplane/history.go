package eventplane

import (
	"sort"
	"sync/atomic"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// The bounds of a publisher's history, unless it has others, and of all histories of
// a client.
const (
	DefaultHistory      = 65_536
	DefaultHistoryBytes = 16 << 20
	defaultHistoryCap   = 256 << 20
)

// The sizes of chunks. They grow with the history, so that small ones take little
// memory.
const (
	minChunk = 4 << 10
	maxChunk = 256 << 10
)

// eventHistory holds the events that a publisher sent last, encoded as they were sent,
// and those that it has not sent yet. It is not safe for concurrent use.
type eventHistory struct {
	maxEvents, maxBytes int
	budget              *historyBudget

	chunks []*chunk // only the last may be empty
	first  uint64   // sequence of the oldest event
	next   uint64   // sequence of the next event
	bytes  int      // of the events

	cursor uint64 // sequence of the next event to send
	unsent int    // bytes of the events from cursor on
	lost   uint64 // events that were removed before they were sent
}

// chunk is a piece of memory with consecutive events. Bytes in it never change, so
// that bodies can be read without a copy and without a lock.
type chunk struct {
	first uint64   // sequence of the first event
	data  []byte   // the bodies
	ends  []uint32 // of each body in data
}

func (c *chunk) body(sequence uint64) []byte {
	i, start := sequence-c.first, uint32(0)
	if i > 0 {
		start = c.ends[i-1]
	}
	return c.data[start:c.ends[i]:c.ends[i]]
}

// end returns the sequence after the last event.
func (c *chunk) end() uint64 { return c.first + uint64(len(c.ends)) }

func (c *chunk) room() int { return cap(c.data) - len(c.data) }

// historyBudget bounds the histories of a client together. Each has a right to an
// equal share. While the bound is exceeded, larger ones shrink to theirs, at their
// next event or tick.
type historyBudget struct {
	max        int64
	used       atomic.Int64 // capacity of all chunks
	publishers atomic.Int64
}

// limit returns how many bytes of events the history may hold now.
func (h *eventHistory) limit() int {
	b := h.budget
	if b.used.Load() <= b.max {
		return h.maxBytes
	}
	return min(h.maxBytes, int(b.max/max(b.publishers.Load(), 1)))
}

// full reports whether an event of about size bytes would replace one that has not
// been sent.
func (h *eventHistory) full(size int) bool {
	pending := h.next - h.cursor
	return pending > 0 && (pending >= uint64(h.maxEvents) || h.unsent+size > h.limit())
}

// reserve returns memory for a body of about size bytes, which add then keeps without
// a copy.
func (h *eventHistory) reserve(size int) []byte {
	if n := len(h.chunks); n == 0 || h.chunks[n-1].room() < size {
		h.grow(size)
	}
	last := h.chunks[len(h.chunks)-1]
	return last.data[len(last.data):]
}

// grow adds a chunk with room for size bytes.
func (h *eventHistory) grow(size int) {
	if n := len(h.chunks); n > 0 && len(h.chunks[n-1].ends) == 0 {
		h.release(h.chunks[n-1])
		h.chunks = h.chunks[:n-1]
	}
	c := &chunk{first: h.next, data: make([]byte, 0, max(size, min(max(h.bytes, minChunk), maxChunk)))}
	h.chunks = append(h.chunks, c)
	h.budget.used.Add(int64(cap(c.data)))
}

func (h *eventHistory) release(c *chunk) { h.budget.used.Add(-int64(cap(c.data))) }

// add adds the event of sequence next. The caller then calls evict.
func (h *eventHistory) add(body []byte) {
	room := h.reserve(len(body))[:len(body)]
	if len(body) > 0 && &room[0] != &body[0] {
		copy(room, body)
	}
	last := h.chunks[len(h.chunks)-1]
	last.data = last.data[:len(last.data)+len(body)]
	last.ends = append(last.ends, uint32(len(last.data)))
	h.bytes += len(body)
	h.unsent += len(body)
	h.next++
}

// evict removes the oldest events until the history is inside of its bounds. The last
// event always stays.
func (h *eventHistory) evict() {
	limit := h.limit()
	for h.first+1 < h.next && (h.next-h.first > uint64(h.maxEvents) || h.bytes > limit) {
		h.remove()
	}
}

// remove removes the oldest event.
func (h *eventHistory) remove() {
	c := h.chunks[0]
	size := len(c.body(h.first))
	h.bytes -= size
	if h.first == h.cursor {
		h.cursor++
		h.unsent -= size
		h.lost++
	}
	if h.first++; h.first == c.end() {
		h.release(c)
		h.chunks[0] = nil
		h.chunks = h.chunks[1:]
	}
}

// removeSent removes the events that have been sent. No slice of them may be in use
// any more: the memory of the last chunk is used again.
func (h *eventHistory) removeSent() {
	if len(h.chunks) == 1 && h.cursor == h.next && cap(h.chunks[0].data) <= maxChunk {
		c := h.chunks[0]
		c.first, c.data, c.ends = h.next, c.data[:0], c.ends[:0]
		h.first, h.bytes = h.next, 0
	}
	for h.first < h.cursor {
		h.remove()
	}
}

// clear removes all events.
func (h *eventHistory) clear() {
	for h.first < h.next {
		h.remove()
	}
	for _, c := range h.chunks {
		h.release(c)
	}
	h.chunks = nil
}

// markSent marks all events as sent.
func (h *eventHistory) markSent() { h.cursor, h.unsent = h.next, 0 }

// take is like slice for the events that have not been sent. They then count as sent.
func (h *eventHistory) take(dst []driver.Message, limit, maxBytes int) []driver.Message {
	if h.cursor == h.next {
		return dst
	}
	dst = h.slice(dst, h.cursor, h.next-1, limit, maxBytes)
	for i := range dst {
		h.unsent -= len(dst[i].Body)
	}
	h.cursor += uint64(len(dst))
	return dst
}

// slice appends the events from first to last to dst; see [driver.History]. The
// bodies share the memory of the history.
func (h *eventHistory) slice(dst []driver.Message, first, last uint64, limit, maxBytes int) []driver.Message {
	first = max(first, h.first)
	at := sort.Search(len(h.chunks), func(i int) bool { return h.chunks[i].end() > first })
	for n, bytes := 0, 0; first < h.next && first <= last && n < limit; n, first = n+1, first+1 {
		if first == h.chunks[at].end() {
			at++
		}
		body := h.chunks[at].body(first)
		if bytes += len(body); n > 0 && bytes > maxBytes {
			break
		}
		dst = append(dst, driver.Message{Sequence: first, HasIdentity: true, Body: body})
	}
	return dst
}
