package eventplane

import (
	"context"
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// recoverer has what the recoveries of all publishers share. The zero value
// recovers nothing.
//
// A gap is recovered in slices of MaxReplay events, two at a time once a publisher
// has answered. Live events of the publisher are held meanwhile; when there is no
// room for them they are discarded, and recovered afterwards.
//
// A reader that is slower than the publisher would recover for ever what it
// discards. Each time that the events known to exist have been requested begins a
// round; if maxRoundsBehind rounds in succession have not become smaller, the
// events discarded are lost. Gaps of that publisher are then not recovered until the
// reader has read all that waits.
//
// Nothing is discarded for a publisher that does not answer. When there is no room,
// its recovery is given up, and what is held is delivered. After each recovery
// without an answer in succession its gaps are not recovered for longer.
type recoverer struct {
	start     func(*slice) // begins a request; nil unless gaps are recovered
	fromStart bool

	active  int     // slices that are requested
	waiting []*peer // for one of maxSlices
	drained uint64  // number of times that the reader has read all that waits
}

func (r *recoverer) enabled() bool { return r.start != nil }

// recovery is the state of the recovery of one publisher.
type recovery struct {
	joined  uint64 // lowest sequence that was received or announced live; events before are history
	history bool   // the events before the first one received are requested too
	open    bool   // history is requested although no later event is known
	slices  []*slice

	unplanned bool // plan may find something to request
	answered  bool // the publisher has replayed events
	wide      bool // the first event that the publisher still has is not known
	waits     bool // in recoverer.waiting
	serial    bool // slices are requested one by one, each with the event before it

	roundEnd, roundSize uint64
	behind              int  // rounds in succession that have not become smaller
	slow                bool // gaps are not recovered while drained is slowSince
	slowSince           uint64
	silences            int           // recoveries in succession that were not answered
	silentUntil         time.Duration // gaps are not recovered before, on the sequencer's clock

	any      bool   // events were recovered that have not been reported:
	from, to uint64 // their sequences
}

// newRecovery returns the state at the beginning of an epoch.
func newRecovery(history bool) recovery {
	return recovery{joined: math.MaxUint64, history: history, wide: history, unplanned: true}
}

// slice is a range of events that is requested of a publisher. The first eight
// fields do not change; the others belong to the sequencer.
type slice struct {
	peer        *peer
	first, last uint64
	overlap     bool // the event before first is requested too: it shows a restart
	answered    bool // the publisher had replayed events before
	announced   bool // the publisher had announced what it has sent
	context     context.Context
	cancel      context.CancelFunc

	next     uint64 // events before are resolved: delivered, held or no longer kept
	found    bool   // any event is still kept
	matched  bool   // the event before first is the one that was delivered
	done     bool
	canceled bool
	refused  bool // there was no room: the rest is requested again

	reply atomic.Int32 // one of those below; changed by the replayClient too
}

// States of the answer to a slice.
const (
	awaited   = iota
	unreplied // nothing, for replayPatience or since the last attempt
	replied
)

// covers reports whether a sequence need not be requested, and the last one of
// which that is so too.
func (sl *slice) covers(seq uint64) (last uint64, ok bool) {
	last = sl.last
	if sl.done {
		last = sl.next - 1
	}
	return last, sl.first <= seq && seq <= last && (!sl.done || sl.next > sl.first)
}

// recovers reports whether a gap of p can be recovered.
func (s *sequencer) recovers(p *peer) bool {
	r := &p.recovery
	return s.recoverer.enabled() && (p.epoch.started || p.epoch.known || r.history) &&
		(!r.slow || r.slowSince != s.recoverer.drained) && s.clock >= r.silentUntil
}

// unanswered reports whether a slice is requested in vain.
func (r *recovery) unanswered() bool {
	return slices.ContainsFunc(r.slices, func(sl *slice) bool { return !sl.done && sl.reply.Load() == unreplied })
}

// backOff is called when a recovery has ended without an answer.
func (s *sequencer) backOff(p *peer) {
	r := &p.recovery
	r.silentUntil = s.clock + min(minSilence<<r.silences, maxSilence)
	r.silences = min(r.silences+1, 16)
}

// discover requests the history of a publisher that is registered.
func (s *sequencer) discover(id uint64) {
	if p := s.peer(id); s.recoverer.fromStart && p.recovery.history && !p.epoch.started && len(p.held) == 0 && len(p.recovery.slices) == 0 {
		p.recovery.open, p.recovery.unplanned = true, true
		s.settle(p)
	}
}

// replayed processes an event of a slice.
func (s *sequencer) replayed(sl *slice, ev Event, size int) {
	if sl.canceled || sl.refused {
		return
	}
	p := sl.peer
	r := &p.recovery
	r.answered, r.silences = true, 0
	sl.reply.Store(replied)
	switch {
	case sl.overlap && ev.Sequence == sl.first-1:
		if p.epoch.last == ev.Sequence && p.epoch.at != missing && p.epoch.at != ev.PublishedAt {
			s.beginAgain(p, ev)
		} else {
			sl.matched = true
		}
		return
	case s.contradicts(sl, &ev):
		if r.serial || sl.overlap {
			s.giveUp(p)
		} else {
			s.cancel(p)
			r.serial, r.unplanned = true, true
		}
		s.settle(p)
		return
	}
	r.wide, sl.found = false, true
	if sl.next < ev.Sequence { // the publisher has those before no longer
		sl.next = ev.Sequence
		s.settle(p)
	}
	if sl.canceled {
		return
	}
	if ev.Sequence == p.epoch.expected() {
		s.deliver(p, ev, true)
	} else if at, found := p.search(ev.Sequence); ev.Sequence > p.epoch.expected() && !found {
		if sl.refused = s.held.full(); sl.refused {
			return
		}
		s.insert(p, at, &heldEvent{peer: p, event: ev, size: size, replayed: true}, false)
	}
	sl.next = max(sl.next, ev.Sequence+1)
	s.settle(p)
}

// beginAgain is called when an event shows that the publisher was restarted. It
// recovers the new epoch. A tick may have announced more of it.
func (s *sequencer) beginAgain(p *peer, ev Event) {
	next, at := ev.Sequence+1, ev.PublishedAt
	if p.ahead > next && p.aheadAt >= at {
		next, at = p.ahead, p.aheadAt
	}
	s.restart(p, ev.PublishedAt)
	s.announce(p, next, at)
}

// contradicts reports whether the time of a replayed event is not one of p's epoch. On
// one path the clock of the publisher may have gone back instead, as is certain if
// the event before the slice is of the epoch.
func (s *sequencer) contradicts(sl *slice, ev *Event) bool {
	p := sl.peer
	if s.paths(p) || p.epoch.hasEarlier {
		return p.epoch.excludes(ev.PublishedAt) || p.holdsEarlier(ev)
	}
	return !sl.matched && p.holdsEarlier(ev)
}

// holdsEarlier reports whether a later event is held that was published before ev:
// they are not of one epoch.
func (p *peer) holdsEarlier(ev *Event) bool {
	at, _ := p.search(ev.Sequence)
	if at < len(p.held) && p.held[at].event.Sequence == ev.Sequence {
		at++
	}
	if at == len(p.held) || p.held[at].replayed {
		return false
	}
	next := p.held[at].event.PublishedAt
	return next > 0 && next < ev.PublishedAt
}

// finish ends a slice. A failure of one means that nothing more can be recovered.
func (s *sequencer) finish(sl *slice, failed bool) {
	if sl.canceled {
		return
	}
	sl.done = true
	sl.cancel()
	s.recoverer.active--
	p := sl.peer
	r := &p.recovery
	switch {
	case failed:
		s.giveUp(p)
		if sl.reply.Load() == unreplied {
			s.backOff(p)
		}
	case !sl.found && sl.last == math.MaxUint64:
		r.open = false
	case !sl.found:
		sl.next = sl.last + 1
		r.wide = true
	}
	r.unplanned = true
	s.settle(p)
}

// giveUp ends the recovery of p: what is missing is lost.
func (s *sequencer) giveUp(p *peer) {
	s.cancel(p)
	r := &p.recovery
	p.gone = max(p.gone, p.known())
	r.history, r.open, r.roundEnd, r.behind = false, false, 0, 0
}

// cancel cancels the slices of p that are requested.
func (s *sequencer) cancel(p *peer) {
	for _, sl := range p.recovery.slices {
		if !sl.done {
			s.recoverer.active--
			sl.canceled = true
			sl.cancel()
		}
	}
	p.recovery.slices = nil
}

// endRecovery is called when p has no gap.
func (s *sequencer) endRecovery(p *peer) {
	r := &p.recovery
	p.ahead = 0
	r.roundEnd, r.behind, r.serial = 0, 0, false
	r.slices = slices.DeleteFunc(r.slices, func(sl *slice) bool { return sl.done })
	if r.open = r.open && r.joined == math.MaxUint64; r.open {
		s.plan(p)
		return
	}
	s.reportRecovered(p)
}

// countRecovered counts a replayed event that is delivered, unless it was published
// before the subscriber joined.
func (s *sequencer) countRecovered(p *peer, seq uint64) {
	r := &p.recovery
	if seq < r.joined {
		return
	}
	s.stats.recovered++
	if !r.any {
		r.any, r.from = true, seq
	}
	r.to = seq
}

// reportRecovered reports the events that were recovered in succession.
func (s *sequencer) reportRecovered(p *peer) {
	if r := &p.recovery; r.any {
		r.any = false
		s.report(Gap{PublisherID: p.id, First: r.from, Last: r.to, Recovered: true})
	}
}
