package eventplane

import "slices"

// maxStamps is the number of sequences, counted back from the latest, of which a
// publisher's state has the times of publishing, and maxStampBytes bounds those of
// all publishers together. The times only decide borderline cases, so a window
// that can no longer grow stays as small as it is.
const (
	minStamps     = 16
	maxStamps     = 1024
	maxStampBytes = 16 << 20
)

// epoch is one life of a publisher under its id: its sequences begin at 0, and its
// times of publishing do not decrease, apart from corrections of its clock.
type epoch struct {
	// Before the first event is delivered, the events before floor are not expected any
	// more. known reports that those from floor on are: the publisher has announced it.
	floor uint64
	known bool

	started     bool   // an event was delivered: the fields below are valid, apart from knownAt
	first, last uint64 // sequences of the first event delivered, and of the last that was delivered or lost
	firstAt     uint64 // time of publishing of the first event delivered
	lastAt      uint64 // latest time among the events delivered
	knownAt     uint64 // latest time among the events delivered or announced
	delivered   uint64 // sequence of the last event delivered
	at          uint64 // its time of publishing, or missing if later ones were lost
	stamps      stamps

	// An event published at afterAt or before is of an earlier epoch, if there was
	// one, whose last sequence delivered was earlierLast.
	hasEarlier           bool
	afterAt, earlierLast uint64
}

// next returns the epoch that an event published at the given time begins. It
// takes over the memory of e.
func (e *epoch) next(at uint64) epoch {
	clear(e.stamps)
	after := e.knownAt
	if after >= at { // the announcement may have been of the epoch that begins
		after = min(e.lastAt, max(at, 1)-1)
	}
	return epoch{stamps: e.stamps, hasEarlier: true, afterAt: after, earlierLast: e.last}
}

// expected returns the sequence that can be delivered at once. The first event of
// an epoch is held unless its sequence is 0: the events before it may be on the
// other path.
func (e *epoch) expected() uint64 {
	if !e.started {
		return e.floor
	}
	return e.last + 1
}

// deliver records the expected event as delivered.
func (e *epoch) deliver(seq, at uint64) {
	if !e.started {
		e.started, e.first, e.firstAt, e.lastAt = true, seq, at, at
	}
	e.stamps.set(seq, at)
	e.last, e.delivered, e.lastAt, e.knownAt, e.at = seq, seq, max(e.lastAt, at), max(e.knownAt, at), at
}

// lose records the events from the expected one to through as lost, and returns
// their number: 0 if the subscriber had not joined when they were published.
func (e *epoch) lose(through uint64) uint64 {
	n := through - e.expected() + 1
	switch {
	case e.started:
		e.stamps.skip(through+1, n)
		e.last, e.at = through, missing
	case e.known:
		e.floor = through + 1
	default:
		e.floor = through + 1
		return 0
	}
	return n
}

// recall makes seq, which was lost after the last event delivered, the expected one,
// and returns the number of events that are no longer lost.
func (e *epoch) recall(seq uint64) uint64 {
	n := e.last - seq + 1
	e.last, e.at, e.knownAt = seq-1, missing, e.lastAt
	return n
}

// excludes reports whether an event published at the given time is of an earlier
// epoch.
func (e *epoch) excludes(at uint64) bool {
	return e.started && at < e.firstAt || e.hasEarlier && at <= e.afterAt
}

// verdict is what an event is, compared with those delivered before.
type verdict int

const (
	fresh     verdict = iota // to be delivered, in the order of sequences
	duplicate                // delivered before
	recalled                 // counted as lost, but to be delivered, since no later one was
	late                     // of a time before the last event delivered, but not delivered
	restart                  // the first of another epoch
)

// compare returns what an event is. On a single path, which keeps the order, an
// event of an earlier epoch cannot follow, and a clock that went back does not
// hide a restart. On several paths such an event is stale: a broker that was away
// delivers events that are older than all others.
func (e *epoch) compare(seq, at uint64, multipath bool) verdict {
	switch {
	case multipath && e.hasEarlier && at <= e.afterAt && seq <= e.earlierLast:
		return duplicate
	case multipath && e.hasEarlier && (at <= e.afterAt || e.started && at < e.firstAt && seq > e.last):
		return late
	case !e.started && seq >= e.floor || e.started && seq > e.last:
		return fresh
	case !e.started && !e.known:
		return late
	case !e.started:
		return restart
	case seq > e.delivered && (at == e.lastAt || multipath && at > e.lastAt && at <= e.knownAt): // lost, as a tick showed that was forged or faster
		return recalled
	case multipath && seq > e.delivered && at < e.lastAt:
		return late
	case at > e.lastAt:
		return restart
	case !multipath && (at == 0 || at < e.firstAt): // without a clock, or with one that went back
		return restart
	case seq < e.first:
		return late
	}
	switch published, ok := e.stamps.get(seq, e.last); {
	case !ok || published == unknown || published == at:
		return duplicate
	case published == missing:
		return late
	case at > published || !multipath: // one sequence, published at two times
		return restart
	}
	return late
}

// compareTick returns what a control message is that announces the events before
// next, the last of them published at the given time, or 0: fresh if it announces events
// of this epoch, restart if it is of a later one, or duplicate, which includes those
// of an earlier one.
func (e *epoch) compareTick(next, at uint64, multipath bool) verdict {
	switch {
	case multipath && e.excludes(at):
		return duplicate
	case next > e.expected():
		if multipath && at < e.knownAt { // fewer events were published later
			return duplicate
		}
		return fresh
	case at > e.knownAt && e.knownAt > 0:
		return restart
	case multipath || !e.started || next == 0 || next-1 < e.first:
		return duplicate
	}
	// On a single path, a clock that went back does not hide a restart.
	if published, ok := e.stamps.get(next-1, e.last); ok && at > 0 && published < unknown && published != at {
		return restart
	}
	return duplicate
}

// Values in place of a time of publishing, which no clock shows.
const (
	missing = ^uint64(0) // the sequence was not delivered
	unknown = missing - 1
)

// stamps are the times of publishing of the latest sequences: that of n is at
// index n modulo the length, which is a power of two.
type stamps []uint64

// get returns the time of a sequence up to last. It reports false for one that the
// window no longer has.
func (s stamps) get(seq, last uint64) (at uint64, ok bool) {
	if last-seq >= uint64(len(s)) {
		return 0, false
	}
	return s[seq&uint64(len(s)-1)], true
}

func (s stamps) set(seq, at uint64) {
	if len(s) > 0 {
		s[seq&uint64(len(s)-1)] = min(at, unknown)
	}
}

// skip marks the n sequences before seq as missing.
func (s stamps) skip(seq, n uint64) {
	for i := uint64(1); i <= min(n, uint64(len(s))); i++ {
		s[(seq-i)&uint64(len(s)-1)] = missing
	}
}

// grown returns the times in a window of n sequences, of which last is the latest.
func (s stamps) grown(n int, last uint64) stamps {
	out := slices.Repeat(stamps{unknown}, n)
	for i := range min(uint64(len(s)), last+1) {
		seq := last - i
		out[seq&uint64(n-1)] = s[seq&uint64(len(s)-1)]
	}
	return out
}
