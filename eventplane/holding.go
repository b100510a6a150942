package eventplane

import (
	"math"
	"slices"
	"time"

	"github.com/dynplane/dynplane/codec"
)

// hold holds an event until the gap before it is filled or lost. If there is no
// room, the event is discarded and recovered later, unless the publisher does not
// answer, or else, without recovery, the event that has waited longest is released.
func (s *sequencer) hold(p *peer, ev Event, size int) {
	at, found := p.search(ev.Sequence)
	if found {
		switch old := p.held[at]; {
		case old.event.PublishedAt >= ev.PublishedAt:
			s.duplicate(p)
			return
		case p.epoch.started || p.epoch.known: // one sequence, published at two times
			s.restart(p, ev.PublishedAt)
			p.recovery.joined = ev.Sequence
			s.hold(p, ev, size)
			return
		default: // of an earlier epoch
			s.stats.outOfOrder++
			s.held.remove(old)
			p.held = slices.Delete(p.held, at, at+1)
		}
	}
	recovers := s.recovers(p)
	if recovers && s.held.fullWith(p, size) && !s.makeRoom(p) {
		after := max(ev.Sequence, ev.Sequence+1) // does not wrap around
		p.expect(after, ev.PublishedAt)
		p.due = max(p.due, after)
		p.recovery.unplanned = p.recovery.unplanned || len(p.recovery.slices) == 0
		return
	}
	s.insert(p, at, &heldEvent{peer: p, event: ev, size: size}, s.paths(p))
	for !recovers && s.held.full() && s.held.oldest != nil {
		s.release(s.held.oldest)
	}
}

// makeRoom ends what the events of p are held for, if it is in vain.
func (s *sequencer) makeRoom(p *peer) bool {
	if !p.recovery.unanswered() {
		return false
	}
	s.giveUp(p)
	s.backOff(p)
	return true
}

// waitForPath lets a tick of p wait for another path. One of each publisher waits at a
// time, and then the latest of those that arrived meanwhile, so that they leave room for
// events.
func (s *sequencer) waitForPath(p *peer, a announcement) {
	if a.at > p.tick.at || a.at == p.tick.at && a.next > p.tick.next {
		p.tick = a
	}
	if !p.ticked {
		s.holdTick(p)
	}
}

func (s *sequencer) holdTick(p *peer) {
	ev := Event{Envelope: codec.Envelope{Sequence: p.tick.next, PublishedAt: p.tick.at}}
	s.held.add(&heldEvent{peer: p, event: ev, tick: true}, s.clock, true)
	p.ticked, p.tick = true, announcement{}
}

// insert adds an event to those of p that are held. A gap before it that is new has
// not been planned to be recovered.
func (s *sequencer) insert(p *peer, at int, h *heldEvent, waits bool) {
	if at == 0 || p.held[at-1].event.Sequence+1 != h.event.Sequence {
		p.recovery.unplanned = true
	}
	p.held = slices.Insert(p.held, at, h)
	s.held.add(h, s.clock, waits)
}

// advance sets the clock, and ends the wait of the events whose deadlines have
// passed.
func (s *sequencer) advance(to time.Duration) {
	s.clock = to
	for h := s.held.oldest; h != nil && h.deadline <= to; h = s.held.oldest {
		s.release(h)
	}
}

// flush releases all events that are held.
func (s *sequencer) flush() {
	for s.held.oldest != nil {
		s.release(s.held.oldest)
	}
	for _, p := range s.peers {
		s.giveUp(p)
		s.settle(p)
	}
}

// release ends the wait of an event or tick for another path: the gaps before it are
// recovered, or lost.
func (s *sequencer) release(h *heldEvent) {
	p := h.peer
	switch {
	case !h.tick:
		s.held.unlist(h)
		s.discardStale(p)
	case s.peers[p.id] != p:
		s.held.remove(h)
		return
	default:
		s.held.remove(h)
		if p.ticked = false; p.tick != (announcement{}) {
			s.holdTick(p)
		}
		s.tick(p, h.event.Sequence, h.event.PublishedAt)
		return
	}
	p.due = max(p.due, h.event.Sequence)
	p.recovery.unplanned = true
	s.settle(p)
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

// discardExcluded discards the events that are held although they are of an earlier
// epoch, as the first event of this one shows.
func (s *sequencer) discardExcluded(p *peer) {
	p.held = slices.DeleteFunc(p.held, func(h *heldEvent) bool {
		excluded := p.epoch.excludes(h.event.PublishedAt)
		if excluded {
			s.stats.outOfOrder++
			s.held.remove(h)
		}
		return excluded
	})
}

// isStale reports whether a was published so long before b, or at all before it,
// that it must have waited on its way.
func isStale(a, b *Event, atAll bool) bool {
	return b.PublishedAt > a.PublishedAt && (atAll || b.PublishedAt-a.PublishedAt > staleAfter)
}

// releaseBefore delivers the events of p that are held and were published before
// the given time, at which an epoch begins; the others are of that epoch.
func (s *sequencer) releaseBefore(p *peer, at uint64) {
	s.discardStale(p)
	for len(p.held) > 0 && (p.held[0].event.PublishedAt < at || at == math.MaxUint64) {
		h := s.popHeld(p)
		if h.event.Sequence > p.epoch.expected() {
			s.lose(p, h.event.Sequence-1)
		}
		s.deliver(p, h.event, h.replayed)
	}
}

// popHeld removes the first event of p that is held.
func (s *sequencer) popHeld(p *peer) *heldEvent {
	h := p.held[0]
	p.held[0] = nil
	if p.held = p.held[1:]; len(p.held) == 0 {
		p.held = nil
	}
	s.held.remove(h)
	return h
}
