package discovery

import (
	"bytes"
	"fmt"
	"time"
)

// reconciler turns the changes of a Watcher into the events of a watch. It keeps
// what has been reported, so that a full listing after a fault becomes the
// difference, and it holds removals that a fault may have caused: the owner of
// such an entry has one TTL to renew it.
//
// A held removal is reported only on a change whose AliveSince is past the hold.
// AliveSince is a time after which the store was reached, so no removal is
// reported while the store is silent, or while its changes wait in a buffer.
type reconciler struct {
	entries  map[ID]*reconciledEntry
	begun    bool      // there has been an OpReset
	again    bool      // and another one, after a fault
	listing  bool      // between OpReset and OpSynced
	reported bool      // Synced has been emitted
	resynced time.Time // the end of the last listing after a fault
	alive    time.Time // the last AliveSince: later changes happened after it
}

type reconciledEntry struct {
	instance Instance
	ttl      time.Duration
	seen     bool      // in the current listing
	until    time.Time // its removal is held until then; zero: not removed
}

// defaultHold is for entries without a TTL.
const defaultHold = 10 * time.Second

func newReconciler() *reconciler { return &reconciler{entries: map[ID]*reconciledEntry{}} }

// apply returns the events that follow from a change. An error concerns only
// that entry.
func (r *reconciler) apply(q Query, ch Change, now time.Time) ([]Event, error) {
	switch ch.Op {
	case OpReset:
		r.again, r.begun, r.listing = r.begun, true, true
		for _, e := range r.entries {
			e.seen = false
		}
	case OpPut:
		return r.put(q, ch)
	case OpDelete:
		return r.remove(ch, now), nil
	case OpSynced:
		return r.sync(now), nil
	case OpProgress:
		r.alive = ch.AliveSince
		return r.expire(ch.AliveSince), nil
	case OpInvalid:
		if e := r.entries[ch.ID]; e != nil {
			e.seen = true
		}
		return nil, ch.Err
	}
	return nil, nil
}

func (r *reconciler) put(q Query, ch Change) ([]Event, error) {
	if !q.Match(ch.ID) {
		return nil, nil
	}
	e := r.entries[ch.ID]
	if e != nil {
		e.seen = true
		if bytes.Equal(e.instance.Raw, ch.Value) {
			e.ttl, e.until = ch.TTL, time.Time{}
			return nil, nil
		}
	}
	// An invalid value leaves the last valid one in place, and held if it was:
	// a writer that overwrites an entry shows neither that its owner is dead
	// nor that it is alive.
	var in Instance
	if err := in.UnmarshalJSON(ch.Value); err != nil { // json.Unmarshal would scan it two more times
		return nil, err
	}
	if in.ID() != ch.ID {
		return nil, fmt.Errorf("discovery: the entry contains the registration of %v %s", in.ID().Kind, in.ID())
	}
	r.entries[ch.ID] = &reconciledEntry{instance: in, ttl: ch.TTL, seen: true}
	return []Event{{Added, in}}, nil
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
		e.until = now.Add(e.hold())
		return nil
	case r.again && r.alive.Before(r.resynced.Add(e.hold())):
		// The owner may not have had a whole TTL since the fault. The current
		// time does not show that: the reader may be slow.
		e.until = r.resynced.Add(e.hold())
		return nil
	}
	return r.drop(ch.ID, e)
}

func (r *reconciler) sync(now time.Time) []Event {
	r.listing = false
	for _, e := range r.entries {
		if !e.seen {
			e.until = now.Add(e.hold())
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

// expire reports the removals whose hold was over at a time after which the
// store was reached.
func (r *reconciler) expire(at time.Time) []Event {
	if r.listing {
		return nil
	}
	var out []Event
	for id, e := range r.entries {
		if !e.until.IsZero() && !at.Before(e.until) {
			out = append(out, r.drop(id, e)...)
		}
	}
	return out
}

func (r *reconciler) drop(id ID, e *reconciledEntry) []Event {
	delete(r.entries, id)
	return []Event{{Removed, e.instance}}
}

func (e *reconciledEntry) hold() time.Duration {
	if e.ttl > 0 {
		return e.ttl
	}
	return defaultHold
}
