package eventplane

import (
	"cmp"
	"math"
	"slices"
	"time"
)

const (
	// maxPeers bounds what is kept per publisher: ids come from the network.
	maxPeers = 65_536
	// dedupCapacity is how many messages back a duplicate is recognised.
	dedupCapacity = 100_000
)

// tracker turns the events of all publishers, as they arrive, into those to
// deliver: each once, in the order of its publisher, with the number of events
// missed before it.
//
// On one path an event is delivered as it comes. On several (brokers differ in
// speed) a gap may be about to be filled by the other path, so what comes after
// it is held back in the window.
type tracker struct {
	peers  map[uint64]*peer
	latest peer // of the ring of peers: next is the one heard last, prev the one heard least recently
	limit  int
	out    []Event // to deliver, from outAt on
	outAt  int

	several bool
	seen    *recent
	window  window

	stats trackerStats
}

type trackerStats struct{ duplicates, late, gaps, missed uint64 }

// peer is the state of one publisher.
type peer struct {
	id          uint64
	heard       bool   // last is valid
	last        uint64 // the last sequence delivered
	publishedAt uint64 // the latest of what was delivered
	held        []*heldEvent
	prev, next  *peer
}

func newTracker(several bool) *tracker {
	t := &tracker{peers: map[uint64]*peer{}, limit: maxPeers, several: several}
	t.latest.prev, t.latest.next = &t.latest, &t.latest
	if several {
		t.seen = newRecent(dedupCapacity)
	}
	return t
}

// offer takes an event that arrived.
func (t *tracker) offer(ev Event) {
	if !t.several {
		t.offerInOrder(ev)
		return
	}
	if !t.seen.add(message{ev.PublisherID, ev.Sequence}) {
		t.stats.duplicates++
		return
	}
	p := t.peer(ev.PublisherID)
	switch {
	case p.heard && ev.Sequence <= p.last:
		t.offerOld(p, ev)
	case ev.Sequence == p.expected():
		t.deliver(p, ev)
		t.releaseRun(p)
	default:
		t.hold(p, ev)
	}
}

// offerInOrder takes an event of a single path, where nothing overtakes: a
// sequence that goes back is a new incarnation of its publisher.
func (t *tracker) offerInOrder(ev Event) {
	p := t.peer(ev.PublisherID)
	if p.heard && ev.Sequence <= p.last {
		p.heard = false
	}
	t.deliver(p, ev)
}

// offerOld takes an event at or below the last one delivered, and not a
// duplicate as far as is known. Published later than that, it is of a new
// incarnation of its publisher. Else it is too late: its place has been counted
// as missed, and to deliver it now would break the order.
func (t *tracker) offerOld(p *peer, ev Event) {
	if ev.PublishedAt <= p.publishedAt {
		t.stats.late++
		return
	}
	t.releaseAll(p)
	p.heard = false
	t.deliver(p, ev)
}

// expected is the sequence that needs no waiting. The first one heard of a
// publisher does, unless it is 0: what came before it may be on the other path.
func (p *peer) expected() uint64 {
	if !p.heard {
		return 0
	}
	return p.last + 1
}

func (t *tracker) deliver(p *peer, ev Event) {
	if p.heard {
		ev.Missed = ev.Sequence - p.last - 1
	}
	if ev.Missed > 0 {
		t.stats.gaps++
		t.stats.missed = addSaturating(t.stats.missed, ev.Missed)
	}
	p.heard, p.last = true, ev.Sequence
	p.publishedAt = max(p.publishedAt, ev.PublishedAt)
	t.out = append(t.out, ev)
}

func addSaturating(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

// peer finds or makes the state of a publisher that was heard now.
func (t *tracker) peer(id uint64) *peer {
	p := t.peers[id]
	if p == nil {
		if len(t.peers) >= t.limit {
			t.forget(t.latest.prev)
		}
		p = &peer{id: id}
		t.peers[id] = p
	} else {
		p.prev.next, p.next.prev = p.next, p.prev
	}
	p.prev, p.next = &t.latest, t.latest.next
	p.prev.next, p.next.prev = p, p
	return p
}

func (t *tracker) forget(p *peer) {
	t.releaseAll(p)
	p.prev.next, p.next.prev = p.next, p.prev
	delete(t.peers, p.id)
}

// next returns an event to deliver.
func (t *tracker) next() (Event, bool) {
	if t.outAt == len(t.out) {
		return Event{}, false
	}
	ev := t.out[t.outAt]
	t.out[t.outAt] = Event{}
	if t.outAt++; t.outAt == len(t.out) {
		t.out, t.outAt = t.out[:0], 0
	}
	return ev, true
}

// hold puts an event into the window until the gap before it is filled or its
// time is over.
func (t *tracker) hold(p *peer, ev Event) {
	h := &heldEvent{peer: p, event: ev}
	at, found := slices.BinarySearchFunc(p.held, ev.Sequence, func(h *heldEvent, seq uint64) int {
		return cmp.Compare(h.event.Sequence, seq)
	})
	if found { // older than what seen remembers
		t.stats.duplicates++
		return
	}
	p.held = slices.Insert(p.held, at, h)
	t.window.add(h)
	for t.window.full() {
		t.release(t.window.oldest)
	}
}

// advance lets the clock of the window run, and gives up waiting where the time
// is over.
func (t *tracker) advance(d time.Duration) {
	t.window.clock += d
	for h := t.window.oldest; h != nil && h.until <= t.window.clock; h = t.window.oldest {
		t.release(h)
	}
}

// flush gives up waiting altogether.
func (t *tracker) flush() {
	for t.window.oldest != nil {
		t.release(t.window.oldest)
	}
}

// release delivers what is held of h's publisher up to h and what follows it
// without a gap.
func (t *tracker) release(h *heldEvent) {
	p, last := h.peer, h.event.Sequence
	for len(p.held) > 0 && p.held[0].event.Sequence <= last {
		t.deliver(p, t.take(p))
	}
	t.releaseRun(p)
}

func (t *tracker) releaseRun(p *peer) {
	for len(p.held) > 0 && p.held[0].event.Sequence == p.expected() {
		t.deliver(p, t.take(p))
	}
}

func (t *tracker) releaseAll(p *peer) {
	for len(p.held) > 0 {
		t.deliver(p, t.take(p))
	}
}

func (t *tracker) take(p *peer) Event {
	h := p.held[0]
	p.held[0] = nil
	if p.held = p.held[1:]; len(p.held) == 0 {
		p.held = nil
	}
	t.window.remove(h)
	return h.event
}

// publishers returns the last sequence delivered of each publisher.
func (t *tracker) publishers() map[uint64]uint64 {
	out := make(map[uint64]uint64, len(t.peers))
	for id, p := range t.peers {
		if p.heard {
			out[id] = p.last
		}
	}
	return out
}
