package eventplane

import (
	"context"
	"math"
	"slices"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// plan requests what is missing of p. It reports whether it has given up instead,
// so that the gap is lost.
func (s *sequencer) plan(p *peer) (changed bool) {
	r := &p.recovery
	if !r.unplanned || !s.recovers(p) {
		return false
	}
	r.unplanned = false
	expected := p.epoch.expected()
	r.slices = slices.DeleteFunc(r.slices, func(sl *slice) bool { return sl.done && sl.next <= expected })
	limit := p.known()
	if s.paths(p) {
		limit = min(limit, p.due)
	}
	for r.requested() == 0 || len(r.slices) < maxSlicesOf && r.answered && !r.wide && !r.serial && !s.held.full() {
		first, last, ok := p.missing(limit)
		if !ok {
			break
		}
		if s.fallsBehind(r, first, limit) {
			s.giveUp(p)
			r.slow, r.slowSince = true, s.recoverer.drained
			return true
		}
		if !s.request(p, first, last) {
			return false
		}
	}
	if r.open && len(r.slices) == 0 {
		s.request(p, expected, math.MaxUint64)
	}
	return false
}

// requested returns the number of slices that are not done.
func (r *recovery) requested() (n int) {
	for _, sl := range r.slices {
		if !sl.done {
			n++
		}
	}
	return n
}

// fallsBehind reports whether the reader discards more than it recovers; see
// recoverer.
func (s *sequencer) fallsBehind(r *recovery, first, limit uint64) bool {
	if first < r.roundEnd {
		return false
	}
	size := limit - first
	if r.roundEnd > 0 && size > minRoundsCounted && size >= r.roundSize {
		r.behind++
	} else {
		r.behind = 0
	}
	r.roundEnd, r.roundSize = limit, size
	return r.behind >= maxRoundsBehind
}

// missing returns a range of sequences below limit that are neither held nor
// requested.
func (p *peer) missing(limit uint64) (first, last uint64, ok bool) {
	first = p.epoch.expected()
	at := 0
	for again := true; again; {
		again = false
		for ; at < len(p.held) && p.held[at].event.Sequence <= first; at++ {
			if p.held[at].event.Sequence == first {
				first++
			}
		}
		for _, sl := range p.recovery.slices {
			if through, covered := sl.covers(first); covered && through < math.MaxUint64 {
				first, again = through+1, true
			} else if covered {
				return 0, 0, false
			}
		}
	}
	if first >= limit {
		return 0, 0, false
	}
	last = limit - 1
	if !p.recovery.wide && last-first >= driver.MaxReplay {
		last = first + driver.MaxReplay - 1
	}
	for _, sl := range p.recovery.slices {
		if sl.first > first {
			last = min(last, sl.first-1)
		}
	}
	for i, _ := p.search(last + 1); i > 0 && p.held[i-1].event.Sequence == last; i-- {
		last--
	}
	return first, last, true
}

// request begins to request a slice, or lets p wait if there are too many.
func (s *sequencer) request(p *peer, first, last uint64) bool {
	r := &p.recovery
	if s.recoverer.active >= maxSlices {
		if !r.waits {
			r.waits = true
			s.recoverer.waiting = append(s.recoverer.waiting, p)
		}
		return false
	}
	s.recoverer.active++
	e := &p.epoch
	sl := &slice{
		peer: p, first: first, last: last, next: first, answered: r.answered, announced: p.announces,
		overlap: e.started && e.at != missing && first > 0 && first == e.expected(),
	}
	if r.silences > 0 {
		sl.reply.Store(unreplied)
	}
	if sl.overlap && last-first == driver.MaxReplay-1 {
		sl.last-- // one answer has no more
	}
	sl.context, sl.cancel = context.WithCancel(context.Background())
	r.slices = append(r.slices, sl)
	s.recoverer.start(sl)
	return true
}

// resume plans the recoveries that wait for others to end.
func (s *sequencer) resume() {
	r := &s.recoverer
	for len(r.waiting) > 0 && r.active < maxSlices {
		p := r.waiting[0]
		r.waiting[0] = nil
		r.waiting = r.waiting[1:]
		p.recovery.waits = false
		if s.peers[p.id] == p {
			p.recovery.unplanned = true
			s.settle(p)
		}
	}
}
