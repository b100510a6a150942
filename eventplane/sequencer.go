package eventplane

import (
	"cmp"
	"math"
	"slices"
	"time"
)

const (
	// maxPeers bounds the number of publishers whose state is kept: their ids
	// are input from the network.
	maxPeers = 65_536
	// dedupCapacity is the number of messages, counted back from the latest,
	// among which a duplicate is detected.
	dedupCapacity = 100_000
)

// sequencer turns the events of all publishers, in order of arrival, into the
// events to deliver: each once, in the order of its publisher, with the number
// of events missed before it.
//
// On a single path an event is delivered as it arrives. On several paths, which
// differ in speed (brokers do), the other path may be about to fill a gap, so
// the events behind a gap are held in the reorder buffer.
type sequencer struct {
	peers  map[uint64]*peer
	recent peer // head of the circular list of peers: next is the most recently used, prev the least
	limit  int  // of peers
	out    []Event
	outAt  int // out[outAt:] is to be delivered

	multipath bool
	seen      *dedupSet // nil on a single path
	held      reorderBuffer

	stats sequencerStats
}

// sequencerStats are those of Stats that the sequencer counts.
type sequencerStats struct{ duplicates, outOfOrder, gaps, missed uint64 }

// peer is the state of one publisher.
type peer struct {
	id          uint64
	started     bool   // last is valid
	last        uint64 // sequence of the last event delivered
	publishedAt uint64 // latest time among the events delivered
	held        []*heldEvent
	prev, next  *peer
}

func newSequencer(multipath bool) *sequencer {
	s := &sequencer{peers: map[uint64]*peer{}, limit: maxPeers, multipath: multipath}
	s.recent.prev, s.recent.next = &s.recent, &s.recent
	if multipath {
		s.seen = newDedupSet(dedupCapacity)
	}
	return s
}

// add adds an event that arrived.
func (s *sequencer) add(ev Event) {
	if !s.multipath {
		s.addInOrder(ev)
		return
	}
	if !s.seen.add(message{ev.PublisherID, ev.Sequence}) {
		s.stats.duplicates++
		return
	}
	p := s.peer(ev.PublisherID)
	switch {
	case p.started && ev.Sequence <= p.last:
		s.addOld(p, ev)
	case ev.Sequence == p.expected():
		s.deliver(p, ev)
		s.releaseRun(p)
	default:
		s.hold(p, ev)
	}
}

// addInOrder adds an event of a single path, which keeps the order: a sequence
// that goes back means that the publisher was restarted.
func (s *sequencer) addInOrder(ev Event) {
	p := s.peer(ev.PublisherID)
	if p.started && ev.Sequence <= p.last {
		p.started = false
	}
	s.deliver(p, ev)
}

// addOld adds an event at or before the last one delivered that is not in the
// dedup set. If it was published later than that one, the publisher was
// restarted. Otherwise the event is discarded: it has been counted as missed,
// and delivering it now would break the order.
func (s *sequencer) addOld(p *peer, ev Event) {
	if ev.PublishedAt <= p.publishedAt {
		s.stats.outOfOrder++
		return
	}
	s.releaseAll(p)
	p.started = false
	s.deliver(p, ev)
}

// expected returns the sequence that can be delivered at once. The first event
// received of a publisher is held unless its sequence is 0: the events before
// it may be on the other path.
func (p *peer) expected() uint64 {
	if !p.started {
		return 0
	}
	return p.last + 1
}

// deliver appends the event to those that next returns, with the number of events
// missed before it.
func (s *sequencer) deliver(p *peer, ev Event) {
	if p.started {
		ev.Missed = ev.Sequence - p.last - 1
	}
	if ev.Missed > 0 {
		s.stats.gaps++
		s.stats.missed = addSaturating(s.stats.missed, ev.Missed)
	}
	p.started, p.last = true, ev.Sequence
	p.publishedAt = max(p.publishedAt, ev.PublishedAt)
	s.out = append(s.out, ev)
}

// addSaturating does not wrap around: sequences are untrusted input, and two of
// them can be 2⁶⁴−1 apart.
func addSaturating(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

// peer finds or creates the state of a publisher and makes it the most recently
// used.
func (s *sequencer) peer(id uint64) *peer {
	p := s.peers[id]
	if p == nil {
		if len(s.peers) >= s.limit {
			s.evict(s.recent.prev)
		}
		p = &peer{id: id}
		s.peers[id] = p
	} else {
		p.prev.next, p.next.prev = p.next, p.prev
	}
	p.prev, p.next = &s.recent, s.recent.next
	p.prev.next, p.next.prev = p, p
	return p
}

// evict removes the state of a peer, after it has delivered the events held.
func (s *sequencer) evict(p *peer) {
	s.releaseAll(p)
	p.prev.next, p.next.prev = p.next, p.prev
	delete(s.peers, p.id)
}

// next removes and returns the next event to deliver, if there is one.
func (s *sequencer) next() (Event, bool) {
	if s.outAt == len(s.out) {
		return Event{}, false
	}
	ev := s.out[s.outAt]
	s.out[s.outAt] = Event{}
	if s.outAt++; s.outAt == len(s.out) {
		s.out, s.outAt = s.out[:0], 0
	}
	return ev, true
}

// hold puts an event into the reorder buffer until the gap before it is filled
// or its deadline has passed.
func (s *sequencer) hold(p *peer, ev Event) {
	h := &heldEvent{peer: p, event: ev}
	at, found := slices.BinarySearchFunc(p.held, ev.Sequence, func(h *heldEvent, seq uint64) int {
		return cmp.Compare(h.event.Sequence, seq)
	})
	if found { // a duplicate that the dedup set no longer holds
		s.stats.duplicates++
		return
	}
	p.held = slices.Insert(p.held, at, h)
	s.held.add(h)
	for s.held.full() {
		s.release(s.held.oldest)
	}
}

// advance advances the clock of the reorder buffer and releases the events
// whose deadlines have passed.
func (s *sequencer) advance(d time.Duration) {
	s.held.clock += d
	for h := s.held.oldest; h != nil && h.deadline <= s.held.clock; h = s.held.oldest {
		s.release(h)
	}
}

// flush releases all events that are held.
func (s *sequencer) flush() {
	for s.held.oldest != nil {
		s.release(s.held.oldest)
	}
}

// release delivers the events of h's publisher that are held, up to h and
// those that follow it without a gap.
func (s *sequencer) release(h *heldEvent) {
	p, last := h.peer, h.event.Sequence
	for len(p.held) > 0 && p.held[0].event.Sequence <= last {
		s.deliver(p, s.popHeld(p))
	}
	s.releaseRun(p)
}

// releaseRun delivers the events of p that follow the last one without a gap.
func (s *sequencer) releaseRun(p *peer) {
	for len(p.held) > 0 && p.held[0].event.Sequence == p.expected() {
		s.deliver(p, s.popHeld(p))
	}
}

// releaseAll delivers all events of p that are held.
func (s *sequencer) releaseAll(p *peer) {
	for len(p.held) > 0 {
		s.deliver(p, s.popHeld(p))
	}
}

// popHeld removes the first event of p that is held.
func (s *sequencer) popHeld(p *peer) Event {
	h := p.held[0]
	p.held[0] = nil
	if p.held = p.held[1:]; len(p.held) == 0 {
		p.held = nil
	}
	s.held.remove(h)
	return h.event
}

// publishers returns the last sequence delivered of each publisher.
func (s *sequencer) publishers() map[uint64]uint64 {
	out := make(map[uint64]uint64, len(s.peers))
	for id, p := range s.peers {
		if p.started {
			out[id] = p.last
		}
	}
	return out
}
