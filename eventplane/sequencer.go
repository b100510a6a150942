package eventplane

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/dynplane/dynplane/codec"
)

// maxPeers bounds the number of publishers whose state is kept: their ids are
// input from the network.
const maxPeers = 65_536

// sequencer turns the events of all publishers, in order of arrival, into the
// events to deliver: each once, in the order of its publisher, with the number
// of events missed before it.
//
// On a single path an event is delivered as it arrives. On several paths, which
// differ in speed (brokers do), the other path may be about to fill a gap, so
// the events behind a gap are held in the reorder buffer. Missed is computed when
// an event is delivered.
type sequencer struct {
	peers      map[uint64]*peer
	recent     peer // head of the circular list of peers: next is the most recently used, prev the least
	limit      int  // of peers
	stampBytes int  // of all peers
	stampLimit int  // in bytes
	out        []Event
	outAt      int // out[outAt:] is to be delivered

	multipath  bool
	reportGaps bool // as events of their own
	held       reorderBuffer

	stats sequencerStats
}

// sequencerStats are those of Stats that the sequencer counts.
type sequencerStats struct{ duplicates, outOfOrder, restarts, gaps, missed uint64 }

// peer is the state of one publisher: its current epoch, and the events of it that
// are held, in the order of their sequences.
type peer struct {
	id         uint64
	epoch      epoch
	held       []*heldEvent
	prev, next *peer
}

func newSequencer(multipath bool) *sequencer {
	s := &sequencer{peers: map[uint64]*peer{}, limit: maxPeers, stampLimit: maxStampBytes, multipath: multipath}
	s.recent.prev, s.recent.next = &s.recent, &s.recent
	return s
}

// add adds an event that arrived.
func (s *sequencer) add(ev Event) {
	p := s.peer(ev.PublisherID)
	switch p.epoch.compare(ev.Sequence, ev.PublishedAt, s.multipath) {
	case duplicate:
		s.stats.duplicates++
		return
	case late: // it has been counted as missed, and delivering it now would break the order
		s.stats.outOfOrder++
		return
	case restart:
		s.releaseBefore(p, ev.PublishedAt)
		s.stats.restarts++
		p.epoch = p.epoch.next(ev.PublishedAt)
	case fresh:
	}
	if s.multipath && ev.Sequence != p.epoch.expected() {
		s.hold(p, ev)
	} else {
		s.deliver(p, ev)
	}
	s.releaseRun(p)
}

// deliver appends the event to those that next returns, with the number of events
// missed before it.
func (s *sequencer) deliver(p *peer, ev Event) {
	s.growStamps(&p.epoch, ev.Sequence)
	if ev.Missed = p.epoch.deliver(ev.Sequence, ev.PublishedAt); ev.Missed > 0 {
		s.stats.gaps++
		s.stats.missed = addSaturating(s.stats.missed, ev.Missed)
		if s.reportGaps {
			gap := &Gap{PublisherID: p.id, First: ev.Sequence - ev.Missed, Last: ev.Sequence - 1}
			s.out = append(s.out, Event{Envelope: codec.Envelope{PublisherID: p.id, Topic: ev.Topic}, Gap: gap})
		}
	}
	s.out = append(s.out, ev)
}

// growStamps makes room for the time of seq, unless the memory for that is used up.
func (s *sequencer) growStamps(e *epoch, seq uint64) {
	n := len(e.stamps)
	if n >= maxStamps || n > 0 && (!e.started || seq-e.first < uint64(n)) {
		return
	}
	more := max(n, minStamps)
	if s.stampBytes+8*more > s.stampLimit {
		return
	}
	s.stampBytes += 8 * more
	e.stamps = e.stamps.grown(n+more, e.last)
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
	s.stampBytes -= 8 * len(p.epoch.stamps)
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
	if found && p.held[at].event.PublishedAt >= ev.PublishedAt {
		s.stats.duplicates++
		return
	}
	if found { // of an earlier epoch
		s.stats.outOfOrder++
		s.held.remove(p.held[at])
		p.held = slices.Delete(p.held, at, at+1)
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
	s.discardStale(p)
	for len(p.held) > 0 && p.held[0].event.Sequence <= last {
		s.deliver(p, s.popHeld(p))
	}
	s.releaseRun(p)
}

// discardStale discards the events that are held before the first one of an epoch
// is delivered, and were published long before the others: a broker that was away
// delivers them, and they must not become the subscriber's starting point. They
// are behind a higher sequence that was published later, or before a gap.
func (s *sequencer) discardStale(p *peer) {
	if p.epoch.started || len(p.held) < 2 {
		return
	}
	newest := 0
	for i, h := range p.held {
		if h.event.PublishedAt > p.held[newest].event.PublishedAt {
			newest = i
		}
	}
	start := newest
	for ; start > 0; start-- {
		before, ev := &p.held[start-1].event, &p.held[start].event
		if ev.Sequence-before.Sequence > 1 && isStale(before, ev, false) {
			break
		}
	}
	end := newest + 1
	for end < len(p.held) && !isStale(&p.held[end].event, &p.held[newest].event, p.epoch.hasEarlier) {
		end++
	}
	for i, h := range p.held {
		if i < start || i >= end {
			s.stats.outOfOrder++
			s.held.remove(h)
		}
	}
	p.held = slices.Delete(slices.Delete(p.held, end, len(p.held)), 0, start)
}

// isStale reports whether a was published so long before b, or at all before it,
// that it must have waited on its way.
func isStale(a, b *Event, atAll bool) bool {
	return b.PublishedAt > a.PublishedAt && (atAll || b.PublishedAt-a.PublishedAt > staleAfter)
}

// releaseRun delivers the events of p that follow the last one without a gap.
func (s *sequencer) releaseRun(p *peer) {
	for len(p.held) > 0 && p.held[0].event.Sequence == p.epoch.expected() {
		s.deliver(p, s.popHeld(p))
	}
}

// releaseAll delivers all events of p that are held.
func (s *sequencer) releaseAll(p *peer) { s.releaseBefore(p, math.MaxUint64) }

// releaseBefore delivers the events of p that are held and were published before
// the given time, at which an epoch begins; the others are of that epoch.
func (s *sequencer) releaseBefore(p *peer, at uint64) {
	s.discardStale(p)
	for len(p.held) > 0 && (p.held[0].event.PublishedAt < at || at == math.MaxUint64) {
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
		if p.epoch.started {
			out[id] = p.epoch.last
		}
	}
	return out
}
