package eventplane

import (
	"math"
	"time"

	"github.com/dynplane/dynplane/codec"
)

// maxPeers bounds the number of publishers whose state is kept: their ids are
// input from the network.
const maxPeers = 65_536

// sequencer turns the messages of all publishers, in order of arrival, into the
// events to deliver: each once, in the order of its publisher, with the number
// of events missed before it.
//
// Events behind a gap are held while one of two sources may still fill it: another
// path, since paths differ in speed (brokers do), and replay by the publisher. A
// gap that neither can fill is lost. On a single path without replay nothing is
// held.
type sequencer struct {
	peers      map[uint64]*peer
	retired    map[uint64]retired // publishers that have left
	recent     peer               // head of the circular list of peers: next is the most recently used, prev the least
	limit      int                // of peers
	stampBytes int                // of all peers
	stampLimit int                // in bytes
	out        []Event
	outAt      int // out[outAt:] is to be delivered

	topic      string
	multipath  bool
	reportGaps bool          // as events of their own
	clock      time.Duration // of the message that is being processed
	held       reorderBuffer
	recoverer  recoverer

	stats sequencerStats
}

// sequencerStats are those of Stats that the sequencer counts.
type sequencerStats struct {
	duplicates, outOfOrder, restarts, gaps, missed, recovered uint64
}

func newSequencer(multipath bool) *sequencer {
	s := &sequencer{peers: map[uint64]*peer{}, limit: maxPeers, stampLimit: maxStampBytes, multipath: multipath}
	s.recent.prev, s.recent.next = &s.recent, &s.recent
	s.held.timeout = reorderTimeout
	return s
}

// paths reports whether events of p may arrive on more than one path. Those of a
// peer that has two names do, also if the configuration has one path.
func (s *sequencer) paths(p *peer) bool { return s.multipath || p.multipath }

// add adds an event that arrived in a message of the given size.
func (s *sequencer) add(ev Event, size int) {
	p := s.peer(ev.PublisherID)
	p.proof = max(s.clock, 1)
	e := &p.epoch
	switch verdict := e.compare(ev.Sequence, ev.PublishedAt, s.paths(p)); {
	case verdict == duplicate:
		if ev.Sequence <= e.delivered {
			s.duplicate(p)
		} else {
			s.stats.duplicates++
		}
		return
	case verdict == late, // it has been counted as missed, and delivering it now would break the order
		verdict == restart && p.recovery.history && ev.Sequence < e.first && ev.PublishedAt-1 < e.firstAt: // replay was faster
		s.stats.outOfOrder++
		return
	case verdict == recalled:
		s.recall(p, ev.Sequence)
	case verdict == restart:
		s.restart(p, ev.PublishedAt)
	}
	p.recovery.joined = min(p.recovery.joined, ev.Sequence)
	switch {
	case ev.Sequence == e.expected():
		s.deliver(p, ev, false)
	case s.paths(p) || s.recovers(p):
		s.hold(p, ev, size)
	default:
		s.lose(p, ev.Sequence-1)
		s.deliver(p, ev, false)
	}
	if len(p.held) > 0 || p.ahead > 0 {
		s.settle(p)
	}
}

// duplicate counts an event of p that arrived again. If none can have been replayed,
// it came on another path.
func (s *sequencer) duplicate(p *peer) {
	s.stats.duplicates++
	p.multipath = p.multipath || !s.recoverer.enabled()
}

// control processes a Ready or Tick message: the events of a publisher before next
// have been sent, the last of them at the given time.
func (s *sequencer) control(id, next, at uint64) {
	if p := s.announced(id); p != nil {
		p.announces = true
		s.sent(p, next, at)
	}
}

// dropped processes a Dropped message. The time of the event before it is not known.
func (s *sequencer) dropped(id, first uint64) {
	if p := s.announced(id); p != nil {
		s.sent(p, first, 0)
	}
}

// sent records that the events of p before next have been sent.
func (s *sequencer) sent(p *peer, next, at uint64) {
	p.proof = max(s.clock, 1)
	e := &p.epoch
	switch {
	case p.isNew() && !s.paths(p):
		e.floor, e.known, e.knownAt = next, true, at
		p.recovery.joined = min(p.recovery.joined, next)
	case p.isNew() && len(p.held) == 0:
		// A broker that was away may deliver an old one, which must not become the
		// subscriber's starting point.
	case s.paths(p) && !s.held.full() && e.compareTick(next, at, true) != duplicate:
		s.waitForPath(p, announcement{next, at})
	default:
		s.tick(p, next, at)
	}
}

// tick processes a control message of p once it need not wait for another path. It is
// ignored if no event of p has been delivered meanwhile.
func (s *sequencer) tick(p *peer, next, at uint64) {
	if p.isNew() && s.paths(p) {
		return
	}
	switch p.epoch.compareTick(next, at, s.paths(p)) {
	case restart:
		s.restart(p, at)
	case fresh:
	default:
		return
	}
	s.announce(p, next, at)
}

// announce records that the events of p before next were published, the last of them
// at the given time.
func (s *sequencer) announce(p *peer, next, at uint64) {
	p.expect(next, at)
	p.due = max(p.due, next)
	p.recovery.joined = min(p.recovery.joined, next)
	p.recovery.unplanned = true
	s.settle(p)
}

// restart begins another epoch, with the events published from the given time on.
func (s *sequencer) restart(p *peer, at uint64) {
	s.cancel(p)
	s.releaseBefore(p, at)
	s.reportRecovered(p)
	s.stats.restarts++
	p.epoch = p.epoch.next(at)
	p.ahead, p.aheadAt, p.due, p.gone = 0, 0, 0, 0
	p.recovery = newRecovery(s.recoverer.enabled())
}

// settle delivers the events of p that can be delivered, and decides about the gap
// before the others: it is lost, or planned to be recovered, or waits for another
// path.
func (s *sequencer) settle(p *peer) {
	for {
		expected := p.epoch.expected()
		if len(p.held) > 0 && p.held[0].event.Sequence <= expected {
			h := s.popHeld(p)
			if h.event.Sequence == expected {
				s.deliver(p, h.event, h.replayed)
			}
			continue
		}
		end, open := p.gap()
		switch through, lost := s.lostThrough(p, end); {
		case !open:
			s.endRecovery(p)
			return
		case lost:
			s.lose(p, min(through, end-1))
		case !s.plan(p):
			return
		}
	}
}

// lostThrough reports whether the expected event is lost, and the last of those
// after it that are, unless they are held. The gap ends before end.
func (s *sequencer) lostThrough(p *peer, end uint64) (uint64, bool) {
	expected := p.epoch.expected()
	if expected < p.gone {
		return p.gone - 1, true
	}
	for _, sl := range p.recovery.slices {
		if sl.first <= expected && expected < sl.next {
			return sl.next - 1, true
		}
	}
	switch {
	case s.recovers(p):
		return 0, false
	case !s.paths(p):
		return end - 1, true
	}
	return p.due - 1, expected < p.due
}

// lose records the events from the expected one to through as lost.
func (s *sequencer) lose(p *peer, through uint64) {
	first := p.epoch.expected()
	n := p.epoch.lose(through)
	if n == 0 {
		return
	}
	if len(p.held) > 0 { // they were published before it
		p.epoch.knownAt = max(p.epoch.knownAt, p.held[0].event.PublishedAt)
	}
	s.reportRecovered(p)
	if p.lost == 0 {
		s.stats.gaps++
	}
	p.lost = addSaturating(p.lost, n)
	s.stats.missed = addSaturating(s.stats.missed, n)
	s.report(Gap{PublisherID: p.id, First: first, Last: through})
}

// recall takes back that events of p from seq on are lost.
func (s *sequencer) recall(p *peer, seq uint64) {
	s.cancel(p)
	n := p.epoch.recall(seq)
	end := seq
	if n := len(p.held); n > 0 {
		end = p.held[n-1].event.Sequence // its wait may have ended
	}
	p.due, p.gone = min(p.due, end), min(p.gone, end)
	p.recovery.unplanned = true
	s.stats.missed -= min(s.stats.missed, n)
	if p.lost -= min(p.lost, n); p.lost == 0 {
		s.stats.gaps--
	}
}

// report appends a gap to the events to deliver, if gaps are requested, or extends
// the one before it.
func (s *sequencer) report(g Gap) {
	if !s.reportGaps {
		return
	}
	if n := len(s.out); n > s.outAt {
		if last := s.out[n-1].Gap; last != nil && last.PublisherID == g.PublisherID && last.Recovered == g.Recovered && last.Last+1 == g.First {
			last.Last = g.Last
			return
		}
	}
	s.out = append(s.out, Event{Envelope: codec.Envelope{PublisherID: g.PublisherID, Topic: s.topic}, Gap: &g})
}

// deliver appends the expected event to those that next returns, with the number
// of events missed before it.
func (s *sequencer) deliver(p *peer, ev Event, replayed bool) {
	if replayed {
		s.countRecovered(p, ev.Sequence)
	} else {
		s.reportRecovered(p)
	}
	s.growStamps(&p.epoch, ev.Sequence)
	ev.Missed, p.lost = p.lost, 0
	first := !p.epoch.started
	p.epoch.deliver(ev.Sequence, ev.PublishedAt)
	if ev.PublishedAt > p.aheadAt && ev.Sequence < p.ahead && s.paths(p) {
		p.ahead = 0 // was announced by an earlier epoch
	}
	if first && s.paths(p) {
		s.discardExcluded(p)
	}
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
