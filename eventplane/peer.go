package eventplane

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// peer is the state of one publisher: its current epoch, and the events of it that
// are held, in the order of their sequences.
type peer struct {
	id        uint64
	epoch     epoch
	held      []*heldEvent
	heldBytes int
	multipath bool          // an event has arrived twice
	announces bool          // a Ready or Tick message has arrived
	proof     time.Duration // on the clock, of the last event or tick that arrived; 0 if none has

	ahead   uint64       // the events before this sequence were published, as a tick or a discarded event shows
	aheadAt uint64       // time of publishing of the last of these
	due     uint64       // gaps before this sequence no longer wait for another path
	gone    uint64       // events before this sequence that are not here are lost
	ticked  bool         // a tick waits for another path,
	tick    announcement // and the latest of those that arrived meanwhile
	lost    uint64       // events lost since the last one delivered

	recovery   recovery
	prev, next *peer
}

// A publisher that has left may return, such as after its lease has expired. Where it
// stood is kept for some minutes.
const (
	maxRetired = 4096
	retiredFor = 5 * time.Minute
)

// retired is where a publisher stood when it left.
type retired struct {
	epoch epoch
	at    time.Duration // on the clock
}

// announcement is what a tick has: the events before next were published, the last of
// them at the given time.
type announcement struct{ next, at uint64 }

// isNew reports whether it is not known where the subscriber starts with p.
func (p *peer) isNew() bool {
	e := &p.epoch
	return !e.started && !e.known && !e.hasEarlier && !p.recovery.history
}

// gap returns the sequence after the first gap, and whether there is one.
func (p *peer) gap() (end uint64, open bool) {
	switch expected := p.epoch.expected(); {
	case p.epoch.started && p.epoch.last == math.MaxUint64:
		return 0, false
	case len(p.held) > 0:
		return p.held[0].event.Sequence, true
	default:
		return p.ahead, p.ahead > expected
	}
}

// expect records that the events before next were published, the last of them at the
// given time.
func (p *peer) expect(next, at uint64) {
	if next > p.ahead {
		p.ahead, p.aheadAt = next, at
	}
	p.epoch.knownAt = max(p.epoch.knownAt, at)
}

// known returns the sequence before which all events are known to exist.
func (p *peer) known() uint64 {
	if n := len(p.held); n > 0 {
		return max(p.ahead, p.held[n-1].event.Sequence)
	}
	return p.ahead
}

// search returns the index in held of a sequence, or that of the next one.
func (p *peer) search(seq uint64) (at int, found bool) {
	return slices.BinarySearchFunc(p.held, seq, func(h *heldEvent, seq uint64) int {
		return cmp.Compare(h.event.Sequence, seq)
	})
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

// peer finds or creates the state of a publisher and makes it the most recently
// used.
func (s *sequencer) peer(id uint64) *peer {
	p := s.peers[id]
	if p == nil {
		if len(s.peers) >= s.limit {
			s.evict(s.recent.prev)
		}
		p = &peer{id: id, recovery: newRecovery(s.recoverer.fromStart)}
		s.peers[id] = p
		if r, ok := s.retired[id]; ok {
			delete(s.retired, id)
			if s.clock-r.at < retiredFor {
				p.epoch, p.recovery = r.epoch, newRecovery(false)
			}
		}
	} else {
		p.unlink()
	}
	p.link(&s.recent)
	return p
}

// link puts p behind prev into the list of peers, from the most recently used on.
func (p *peer) link(prev *peer) {
	p.prev, p.next = prev, prev.next
	p.prev.next, p.next.prev = p, p
}

func (p *peer) unlink() { p.prev.next, p.next.prev = p.next, p.prev }

// retire forgets a publisher that has left. On several paths, what was delivered is
// kept until others need the room: a broker that was away may deliver it again, however
// much later.
func (s *sequencer) retire(p *peer) {
	if !s.multipath {
		s.evict(p)
		if !p.epoch.started {
			return
		}
		if s.retired == nil || len(s.retired) >= maxRetired {
			s.retired = map[uint64]retired{}
		}
		p.epoch.stamps = nil
		s.retired[p.id] = retired{p.epoch, s.clock}
		return
	}
	s.stampBytes -= 8 * len(p.epoch.stamps)
	p.epoch.stamps = nil
}

// announced finds the state of a publisher that a control message names, or creates it
// as the least recently used: such messages are easily forged, and must not evict the
// state of a publisher whose events arrive.
func (s *sequencer) announced(id uint64) *peer {
	p, oldest := s.peers[id], s.recent.prev
	switch {
	case p != nil:
		return p
	case s.multipath && !s.recoverer.enabled(), len(s.peers) >= s.limit && oldest.epoch.started:
		return nil
	}
	p = s.peer(id)
	p.unlink()
	p.link(s.recent.prev)
	return p
}

// evict removes the state of a peer, after it has delivered the events held.
func (s *sequencer) evict(p *peer) {
	s.cancel(p)
	s.releaseBefore(p, math.MaxUint64)
	s.reportRecovered(p)
	s.stampBytes -= 8 * len(p.epoch.stamps)
	p.unlink()
	delete(s.peers, p.id)
}

// publishers returns the last sequence delivered or lost of each publisher, and the
// time since its last message.
func (s *sequencer) publishers(now time.Duration) (last map[uint64]uint64, proof map[uint64]time.Duration) {
	last, proof = make(map[uint64]uint64, len(s.peers)), make(map[uint64]time.Duration, len(s.peers))
	for id, p := range s.peers {
		if p.epoch.started {
			last[id] = p.epoch.last
		}
		if p.proof > 0 {
			proof[id] = now - p.proof
		}
	}
	return last, proof
}
