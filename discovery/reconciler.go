package discovery

import (
	"bytes"
	"context"
	"time"

	"github.com/dynplane/dynplane/internal/wait"
)

// reconciler turns the changes of a Watcher into the events of a watch. It keeps
// what has been reported, so that a full listing after a fault becomes the
// difference, and it holds removals that a fault may have caused: the owner of
// such an entry has the time of its hold to renew it. A listing again prolongs a
// hold by the time in which the store could not be reached, and no further.
//
// A held removal is reported only on a change whose AliveSince is past the hold.
// AliveSince is a time after which the store was reached, so no removal is
// reported while the store is silent, or while its changes wait in a buffer. If the
// watcher is a Confirmer, the entry must also be absent from the other copy.
type reconciler struct {
	match    func(ID) bool
	entries  map[ID]reconciledEntry
	held     map[ID]time.Time // until when the removal of an entry is held
	listings uint32           // begun so far, each with an OpReset
	listing  bool             // between OpReset and OpSynced
	reported bool             // Synced has been emitted
	resynced time.Time        // the end of the last listing after a fault
	alive    time.Time        // the last AliveSince: later changes happened after it

	confirmer Confirmer // nil if the watcher is none
	retryAt   time.Time // Present has failed, and is not called before
	retry     wait.Backoff
	failing   bool // Present has failed since it last succeeded
}

// reconciledEntry is small, since each watch has one for each entry.
type reconciledEntry struct {
	*storedEntry
	ttl  time.Duration
	seen uint32 // the last listing that has it, unless its removal was reported since
}

const (
	// minReconnect is the least time that owners have to reach their store again.
	minReconnect = 2 * time.Second

	// defaultHold is that of entries without a TTL: of one of 10 s.
	defaultHold = 15 * time.Second
)

func newReconciler(match func(ID) bool) *reconciler {
	return &reconciler{
		match:   match,
		entries: map[ID]reconciledEntry{}, held: map[ID]time.Time{},
		retry: wait.Backoff{Min: 500 * time.Millisecond, Max: 5 * time.Second},
	}
}

// use makes w the watcher whose changes follow.
func (r *reconciler) use(w Watcher) { r.confirmer, _ = w.(Confirmer) }

// apply returns the events that follow from a change. An error concerns only
// that entry.
func (r *reconciler) apply(ch Change, now time.Time) ([]Event, error) {
	switch ch.Op {
	case OpReset:
		r.listings++
		r.listing = true
	case OpPut:
		return r.put(ch)
	case OpDelete:
		return r.remove(ch, now), nil
	case OpSynced:
		return r.sync(now), nil
	case OpProgress: // expire follows
		r.alive = ch.AliveSince
	case OpInvalid:
		if e, ok := r.entries[ch.ID]; ok {
			r.see(e)
		}
		return nil, ch.Err
	}
	return nil, nil
}

func (r *reconciler) put(ch Change) ([]Event, error) {
	if !r.match(ch.ID) {
		return nil, nil
	}
	former, known := r.entries[ch.ID]
	if known && bytes.Equal(former.instance.Raw, ch.Value) {
		former.ttl = ch.TTL
		r.see(former)
		delete(r.held, ch.ID)
		return nil, nil
	}
	// An invalid value leaves the last valid one in place, and held if it was:
	// a writer that overwrites an entry shows neither that its owner is dead
	// nor that it is alive.
	stored, err := ch.decode()
	if err != nil {
		if known {
			r.see(former)
		}
		return nil, err
	}
	r.see(reconciledEntry{storedEntry: stored, ttl: ch.TTL})
	delete(r.held, ch.ID)
	if known {
		return []Event{{Type: Updated, Instance: stored.instance, Previous: former.instance}}, nil
	}
	return []Event{{Type: Added, Instance: stored.instance}}, nil
}

// see keeps an entry that the current listing, or a later change, has.
func (r *reconciler) see(e reconciledEntry) {
	e.seen = r.listings
	r.entries[e.id] = e
}

// again reports whether a listing was begun after the first one.
func (r *reconciler) again() bool { return r.listings > 1 }

func (r *reconciler) remove(ch Change, now time.Time) []Event {
	e, ok := r.entries[ch.ID]
	switch {
	case !ok:
		return nil
	case ch.Cause == CauseUnregistered:
		return r.drop(e)
	case r.listing && r.again():
		e.seen = 0 // the end of the listing holds it
		r.entries[e.id] = e
		return nil
	case ch.Cause == CauseUncertain:
		r.held[e.id] = now.Add(e.hold())
		return nil
	case r.again() && r.alive.Before(r.resynced.Add(e.hold())):
		// The owner may not have had the whole time since the fault. The current
		// time does not show that: the reader may be slow.
		r.held[e.id] = r.resynced.Add(e.hold())
		return nil
	}
	return r.drop(e)
}

func (r *reconciler) sync(now time.Time) []Event {
	r.listing = false
	if r.again() {
		outage := now.Sub(r.alive)
		for id, e := range r.entries {
			if e.seen == r.listings {
				continue
			}
			until := now.Add(e.hold())
			if held, ok := r.held[id]; ok && held.Add(outage).Before(until) {
				until = held.Add(outage)
			}
			r.held[id] = until
		}
		r.resynced = now
	}
	if r.reported {
		return nil
	}
	r.reported = true
	return []Event{{Type: Synced}}
}

// expire reports the removals whose hold was over at the last AliveSince, if the
// watcher does not find their entries present after all. If that fails they stay
// held; the error is the first of a series.
func (r *reconciler) expire(ctx context.Context, now time.Time) ([]Event, error) {
	due := r.due()
	if len(due) == 0 {
		return nil, nil
	}
	if r.confirmer != nil {
		if r.alive.Before(r.retryAt) {
			return nil, nil
		}
		present, err := r.confirmer.Present(ctx, due)
		if err != nil {
			return nil, r.failed(ctx, now, err)
		}
		r.retry.Reset()
		r.failing = false
		for _, id := range present {
			// Its owner was alive; this watcher's copy of the entry is late or lost.
			if e, ok := r.entries[id]; ok {
				r.held[e.id] = now.Add(e.hold())
			}
		}
		due = r.due()
	}
	var out []Event
	for _, id := range due {
		out = append(out, r.drop(r.entries[id])...)
	}
	return out, nil
}

func (r *reconciler) failed(ctx context.Context, now time.Time, err error) error {
	r.retryAt = now.Add(r.retry.Next())
	first := !r.failing && ctx.Err() == nil
	r.failing = r.failing || first
	if !first {
		err = nil
	}
	return err
}

// due returns the ids whose hold was over at the last AliveSince.
func (r *reconciler) due() []ID {
	if r.listing {
		return nil
	}
	var ids []ID
	for id, until := range r.held {
		if !r.alive.Before(until) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (r *reconciler) drop(e reconciledEntry) []Event {
	delete(r.entries, e.id)
	delete(r.held, e.id)
	return []Event{{Type: Removed, Instance: e.instance}}
}

// hold returns how long the removal of the entry is held. Owners recover within one
// TTL after they have reached their store again. Reaching it takes some seconds more,
// since owners back off while they cannot, as does a watcher, which may have been
// faster.
func (e reconciledEntry) hold() time.Duration {
	if e.ttl <= 0 {
		return defaultHold
	}
	return e.ttl + max(e.ttl/2, minReconnect)
}
