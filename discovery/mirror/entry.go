package mirror

import (
	"math/rand/v2"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// An entry is one id. Its state is what the mirror must do about it, and follows
// from what the source and the target have and what the mirror holds. Its phase is
// what the mirror is doing about it at the moment.
//
// The phases:
//
//	idle       There is nothing to do. Any event queues the entry.
//	queued     It waits for dispatch, which moves it on by its state:
//	             absent                        forgotten, or idle if the target has it
//	             standBy, held                 idle
//	             wanted, stale, unwanted       operating, or delayed if it is not due
//	delayed    It waits until it is due. That, or any event, queues it.
//	operating  An operation is under way. Its end queues the entry; after a failure
//	           it is then due later, and after a conflict it is blocked.
//	blocked    It is in conflict with the target. A change of its source queues it,
//	           or a change in the target that may have ended the conflict. Or the
//	           target cannot hold it; then only a change of its source queues it.
//
// The events:
//
//	source: Added             a new version
//	source: Removed           no source any more
//	target: Added, Removed    the target's holder; may end conflicts nearby
//	the registration ended    no longer held; due once the target's watch has settled
//	the operation ended       held, no longer held, or failed
type entry struct {
	id      discovery.ID
	source  *discovery.Instance // nil if the source has none, or only a mirrored one
	version int                 // counts the values of source
	target  holder

	reg  *discovery.Registration // of this mirror; nil if it holds none
	held int                     // the version that reg has

	phase   phase
	due     time.Time // of the next operation
	failure failure

	// Events while operating:
	nearbyChanged bool // the target changed where a conflict may come from
	ended         bool // reg has ended
}

// holder is the owner of the entry that the watch of the target has delivered
// last. The watch may lag behind this mirror's own writes, so reg, and not the
// holder, determines whether the mirror holds an entry.
type holder uint8

const (
	vacant holder = iota // there is no entry
	ours                 // this mirror
	others               // a worker, or another mirror
)

// state is what the mirror must do about an entry.
type state uint8

const (
	absent   state = iota // neither the source nor the mirror has it: nothing to do
	standBy               // others hold it in the target: nothing to do until they remove it
	wanted                // it is in the source and not in the target: register it
	held                  // it is registered with the value of the source: nothing to do
	stale                 // it is registered with a former value: update it
	unwanted              // it is registered and gone from the source: unregister it
)

func (e *entry) state() state {
	switch {
	case e.source == nil && e.reg == nil:
		return absent
	case e.source == nil:
		return unwanted
	case e.target == others:
		// If reg is set as well, either others have taken it over, and it is
		// about to end, or the watch lags behind this mirror's own write.
		return standBy
	case e.reg == nil:
		return wanted
	case e.held != e.version:
		return stale
	}
	return held
}

// phase is what the mirror is doing about an entry.
type phase uint8

const (
	idle phase = iota
	queued
	delayed
	operating
	blocked
	phases // their number
)

// failure describes the operations that have failed since the last success.
type failure struct {
	count  int
	err    error // of the last one
	warned bool
}

const (
	// settleTime is how long the watch of the target gets to deliver the entry
	// of the owner that took over a registration.
	settleTime = 5 * time.Second

	// conflictRetry bounds the random delay after which a conflict is checked
	// again. It is random so that two mirrors whose entries are in conflict with
	// each other do not stay in step.
	conflictRetry = time.Second
)

// enter moves an entry to another phase.
func (m *mirror) enter(e *entry, p phase) {
	delete(m.inPhase[e.phase], e)
	e.phase = p
	m.inPhase[p][e] = struct{}{}
}

// enqueue has the entry dispatched if that can change anything: a blocked one
// stays blocked, and one that is operating is queued at its end.
func (m *mirror) enqueue(e *entry) {
	if e.phase == idle || e.phase == delayed {
		m.enter(e, queued)
		m.queue = append(m.queue, e)
	}
}

// unblock enqueues the entry even if it is blocked.
func (m *mirror) unblock(e *entry) {
	if e.phase == blocked {
		m.enter(e, idle)
	}
	m.enqueue(e)
}

// apply processes an event of a watch.
func (m *mirror) apply(ch change) {
	if ch.event.Type == discovery.Synced {
		m.unsynced--
		if ch.side == target {
			m.unsyncedTargets--
		}
		return
	}
	id := ch.event.Instance.ID()
	e := m.entries[id]
	if e == nil {
		e = &entry{id: id}
		m.entries[id] = e
		m.enter(e, idle)
	}
	added := ch.event.Type == discovery.Added
	switch {
	case ch.side == target:
		m.setHolder(e, added, ch.marker)
		m.enqueue(e)
	case added && ch.marker == "":
		e.source = &ch.event.Instance
		e.version++
		m.unblock(e)
	default:
		e.source = nil
		if e.reg != nil {
			e.due = time.Time{}
		}
		m.unblock(e)
	}
}

// setHolder records an event of the target. This mirror's own writes end no conflict.
func (m *mirror) setHolder(e *entry, added bool, marker string) {
	switch {
	case !added:
		e.target = vacant
	case marker == m.marker:
		e.target = ours
	default:
		e.target = others
	}
	if e.target != ours {
		m.retryNearby(e.id)
	}
}

// retryNearby retries the entries whose conflict may have ended with a change of
// the target under id: those of the same kind and scope.
func (m *mirror) retryNearby(id discovery.ID) {
	nearby := func(e *entry) bool { return e.id.Kind == id.Kind && e.id.Scope == id.Scope }
	for e := range m.inPhase[operating] {
		e.nearbyChanged = e.nearbyChanged || nearby(e)
	}
	for e := range m.inPhase[blocked] {
		if nearby(e) && !isUnstorable(e.failure.err) {
			m.retryConflict(e)
		}
	}
}

// retryConflict queues an entry in conflict, due after a random delay.
func (m *mirror) retryConflict(e *entry) {
	e.due = time.Now().Add(rand.N(conflictRetry))
	m.unblock(e)
}

// queueDue enqueues the delayed entries that are due.
func (m *mirror) queueDue() {
	now := time.Now()
	for e := range m.inPhase[delayed] {
		if !now.Before(e.due) {
			m.enqueue(e)
		}
	}
}

// lose processes the end of a registration. The entry of the owner that took it
// over may not have been delivered yet.
func (m *mirror) lose(l loss) {
	e := l.e
	switch {
	case e.reg != l.reg: // unregistered or replaced by this mirror
	case e.phase == operating:
		e.ended = true
	default:
		e.reg = nil
		e.due = time.Now().Add(settleTime)
		m.enqueue(e)
	}
}
