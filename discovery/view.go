package discovery

import (
	"bytes"
	"fmt"
	"time"
)

// view turns the changes of a Watcher into the events of a watch. It knows
// what has been reported, so that a full listing after a disturbance becomes
// the difference, and it holds removals that a disturbance may have caused:
// the owner of such an entry has one TTL to come back.
//
// A held removal is reported only by a change whose At is past the hold. At is
// a time since when the store is known to have spoken, so while the store is
// silent, or while what it said waits in a buffer, no removal is believed.
type view struct {
	entries  map[ID]*viewEntry
	begun    bool      // there has been an OpReset
	again    bool      // and another one: a disturbance
	listing  bool      // between OpReset and OpSynced
	reported bool      // Synced has been emitted
	resynced time.Time // the end of the last listing after a disturbance
	alive    time.Time // the last At: what comes now has happened later
}

type viewEntry struct {
	instance Instance
	ttl      time.Duration
	seen     bool      // in the listing that is under way
	until    time.Time // held until then; zero is not held
}

// defaultHold is for entries whose owner and its TTL are unknown.
const defaultHold = 10 * time.Second

func newView() *view { return &view{entries: map[ID]*viewEntry{}} }

// apply returns the events that follow from a change. An error concerns that
// one entry.
func (v *view) apply(q Query, ch Change, now time.Time) ([]Event, error) {
	switch ch.Op {
	case OpReset:
		v.again, v.begun, v.listing = v.begun, true, true
		for _, e := range v.entries {
			e.seen = false
		}
	case OpPut:
		return v.put(q, ch)
	case OpDelete:
		return v.remove(ch, now), nil
	case OpSynced:
		return v.sync(now), nil
	case OpAlive:
		v.alive = ch.At
		return v.expire(ch.At), nil
	case OpBad:
		if e := v.entries[ch.ID]; e != nil {
			e.seen = true
		}
		return nil, ch.Err
	}
	return nil, nil
}

func (v *view) put(q Query, ch Change) ([]Event, error) {
	if !q.Match(ch.ID) {
		return nil, nil
	}
	e := v.entries[ch.ID]
	if e != nil {
		e.seen = true
		if bytes.Equal(e.instance.Raw, ch.Value) {
			e.ttl, e.until = ch.TTL, time.Time{}
			return nil, nil
		}
	}
	// A value that cannot be read leaves the last good one in its place, and
	// held if it was: who overwrites a living entry does not make its owner
	// dead, and not alive either.
	var in Instance
	if err := in.UnmarshalJSON(ch.Value); err != nil { // json.Unmarshal would scan it twice more
		return nil, err
	}
	if in.ID() != ch.ID {
		return nil, fmt.Errorf("discovery: the value is that of %v %s", in.ID().Kind, in.ID())
	}
	v.entries[ch.ID] = &viewEntry{instance: in, ttl: ch.TTL, seen: true}
	return []Event{{Added, in}}, nil
}

func (v *view) remove(ch Change, now time.Time) []Event {
	e := v.entries[ch.ID]
	switch {
	case e == nil:
		return nil
	case ch.Cause == CauseUnregistered:
		return v.drop(ch.ID, e)
	case v.listing && v.again:
		e.seen = false // held when the listing ends
		return nil
	case ch.Cause == CauseDisturbed:
		e.until = now.Add(e.hold())
		return nil
	case v.again && v.alive.Before(v.resynced.Add(e.hold())):
		// Its owner may not have had the whole of its TTL since the
		// disturbance. Now would not tell: the reader may be slow.
		e.until = v.resynced.Add(e.hold())
		return nil
	}
	return v.drop(ch.ID, e)
}

func (v *view) sync(now time.Time) []Event {
	v.listing = false
	for _, e := range v.entries {
		if !e.seen {
			e.until = now.Add(e.hold())
		}
	}
	if v.again {
		v.resynced = now
	}
	if v.reported {
		return nil
	}
	v.reported = true
	return []Event{{Type: Synced}}
}

// expire reports the held removals whose time was over at a moment since when
// the store has spoken.
func (v *view) expire(at time.Time) []Event {
	if v.listing {
		return nil
	}
	var out []Event
	for id, e := range v.entries {
		if !e.until.IsZero() && !at.Before(e.until) {
			out = append(out, v.drop(id, e)...)
		}
	}
	return out
}

func (v *view) drop(id ID, e *viewEntry) []Event {
	delete(v.entries, id)
	return []Event{{Removed, e.instance}}
}

func (e *viewEntry) hold() time.Duration {
	if e.ttl > 0 {
		return e.ttl
	}
	return defaultHold
}
