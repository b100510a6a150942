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
// such an entry has the time of its hold to renew it.
//
// A held removal is reported only on a change whose AliveSince is past the hold.
// AliveSince is a time after which the store was reached, so no removal is
// reported while the store is silent, or while its changes wait in a buffer. If the
// watcher is a Confirmer, the entry must also be absent from the other copy.
type reconciler struct {
	match    func(ID) bool
	entries  map[ID]*reconciledEntry
	held     map[ID]struct{} // entries whose until is set
	begun    bool            // there has been an OpReset
	again    bool            // and another one, after a fault
	listing  bool            // between OpReset and OpSynced
	reported bool            // Synced has been emitted
	resynced time.Time       // the end of the last listing after a fault
	alive    time.Time       // the last AliveSince: later changes happened after it

	confirmer Confirmer // nil if the watcher is none
	retryAt   time.Time // Present has failed, and is not called before
	retry     wait.Backoff
	failing   bool // Present has failed since it last succeeded
}

type reconciledEntry struct {
	instance Instance
	ttl      time.Duration
	seen     bool      // in the current listing
	until    time.Time // its removal is held until then; zero: not removed
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
		entries: map[ID]*reconciledEntry{}, held: map[ID]struct{}{},
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
		r.again, r.begun, r.listing = r.begun, true, true
		for _, e := range r.entries {
			e.seen = false
		}
	case OpPut:
		return r.put(ch)
	case OpDelete:
		return r.remove(ch, now), nil
	case OpSynced:
		return r.sync(now), nil
	case OpProgress: // expire follows
		r.alive = ch.AliveSince
	case OpInvalid:
		if e := r.entries[ch.ID]; e != nil {
			e.seen = true
		}
		return nil, ch.Err
	}
	return nil, nil
}

func (r *reconciler) put(ch Change) ([]Event, error) {
	if !r.match(ch.ID) {
		return nil, nil
	}
	e := r.entries[ch.ID]
	if e != nil {
		e.seen = true
		if bytes.Equal(e.instance.Raw, ch.Value) {
			e.ttl, e.until = ch.TTL, time.Time{}
			delete(r.held, ch.ID)
			return nil, nil
		}
	}
	// An invalid value leaves the last valid one in place, and held if it was:
	// a writer that overwrites an entry shows neither that its owner is dead
	// nor that it is alive.
	in, err := ch.decode()
	if err != nil {
		return nil, err
	}
	r.entries[ch.ID] = &reconciledEntry{instance: in, ttl: ch.TTL, seen: true}
	delete(r.held, ch.ID)
	if e != nil {
		return []Event{{Type: Updated, Instance: in, Previous: e.instance}}, nil
	}
	return []Event{{Type: Added, Instance: in}}, nil
}

func (r *reconciler) remove(ch Change, now time.Time) []Event {
	e := r.entries[ch.ID]
	switch {
	case e == nil:
		return nil
	case ch.Cause == CauseUnregistered:
		return r.drop(ch.ID, e)
	case r.listing && r.again:
		e.seen = false // the end of the listing holds it
		return nil
	case ch.Cause == CauseUncertain:
		r.holdUntil(ch.ID, now.Add(e.hold()))
		return nil
	case r.again && r.alive.Before(r.resynced.Add(e.hold())):
		// The owner may not have had the whole time since the fault. The current
		// time does not show that: the reader may be slow.
		r.holdUntil(ch.ID, r.resynced.Add(e.hold()))
		return nil
	}
	return r.drop(ch.ID, e)
}

func (r *reconciler) sync(now time.Time) []Event {
	r.listing = false
	for id, e := range r.entries {
		if !e.seen {
			r.holdUntil(id, now.Add(e.hold()))
		}
	}
	if r.again {
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
			if e := r.entries[id]; e != nil {
				r.holdUntil(id, now.Add(e.hold()))
			}
		}
		due = r.due()
	}
	var out []Event
	for _, id := range due {
		out = append(out, r.drop(id, r.entries[id])...)
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
	for id := range r.held {
		if !r.alive.Before(r.entries[id].until) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (r *reconciler) holdUntil(id ID, until time.Time) {
	r.entries[id].until = until
	r.held[id] = struct{}{}
}

func (r *reconciler) drop(id ID, e *reconciledEntry) []Event {
	delete(r.entries, id)
	delete(r.held, id)
	return []Event{{Type: Removed, Instance: e.instance}}
}

// hold returns how long the removal of the entry is held. Owners recover within one
// TTL after they have reached their store again. Reaching it takes some seconds more,
// since owners back off while they cannot, as does a watcher, which may have been
// faster.
func (e *reconciledEntry) hold() time.Duration {
	if e.ttl <= 0 {
		return defaultHold
	}
	return e.ttl + max(e.ttl/2, minReconnect)
}
