package discovery

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"
)

// cacheEntry is an immutable entry of a Cache.
type cacheEntry struct {
	*storedEntry
	ttl   time.Duration // of the owner; zero if unknown
	model string        // the display name of a model; empty for other kinds, and for cards without one
}

func newCacheEntry(r reconciledEntry) *cacheEntry {
	e := &cacheEntry{storedEntry: r.storedEntry, ttl: r.ttl}
	if model, ok := r.instance.Spec.(Model); ok {
		if identity, err := model.identity(); err == nil {
			e.model = identity.displayName
		}
	}
	return e
}

// cacheState is what a Cache has at one time. It is immutable; readers need no
// lock.
type cacheState struct {
	sequence   uint64 // of the last change
	byID       cacheIndex
	byInstance cacheIndex
	byModel    cacheIndex    // of the entries that have a model
	changed    chan struct{} // closed once there is a newer state
}

// newCacheState returns the state of a full listing.
func newCacheState(sequence uint64, found map[ID]reconciledEntry) *cacheState {
	entries := make([]*cacheEntry, 0, len(found))
	var models []*cacheEntry
	for e := range maps.Values(found) {
		entry := newCacheEntry(e)
		entries = append(entries, entry)
		if entry.model != "" {
			models = append(models, entry)
		}
	}
	return &cacheState{
		sequence:   sequence,
		byID:       newCacheIndex(compareIDs, entries),
		byInstance: newCacheIndex(compareInstances, slices.Clone(entries)),
		byModel:    newCacheIndex(compareModels, models),
		changed:    make(chan struct{}),
	}
}

func compareIDs(a, b *cacheEntry) int { return a.id.Compare(b.id) }

func compareInstances(a, b *cacheEntry) int {
	return cmp.Or(cmp.Compare(a.id.Instance, b.id.Instance), a.id.Compare(b.id))
}

func compareModels(a, b *cacheEntry) int {
	return cmp.Or(cmp.Compare(a.model, b.model), a.id.Compare(b.id))
}

// with returns the next state, in which the entry now takes the place of former.
// Either may be nil.
func (s *cacheState) with(former, now *cacheEntry) *cacheState {
	next := *s
	next.sequence++
	next.changed = make(chan struct{})
	if former != nil && former.model != "" {
		next.byModel = next.byModel.without(former)
	}
	if now == nil && former != nil {
		next.byID, next.byInstance = next.byID.without(former), next.byInstance.without(former)
	}
	if now != nil {
		next.byID, next.byInstance = next.byID.with(now), next.byInstance.with(now)
		if now.model != "" {
			next.byModel = next.byModel.with(now)
		}
	}
	return &next
}

// get returns nil if there is no entry of the id.
func (s *cacheState) get(id ID) *cacheEntry {
	for e := range s.byID.from(func(e *cacheEntry) bool { return e.id.Compare(id) < 0 }) {
		if e.id == id {
			return e
		}
		break
	}
	return nil
}

// matching yields the entries that match q, in the order of their ids. Kind and
// scope come first in that order, so that it visits few others.
func (s *cacheState) matching(q Query) iter.Seq[*cacheEntry] {
	return func(yield func(*cacheEntry) bool) {
		for _, kind := range q.Kinds() {
			for e := range s.byID.from(func(e *cacheEntry) bool { return compareToQuery(e.id, kind, q) < 0 }) {
				if compareToQuery(e.id, kind, q) > 0 {
					break
				}
				if q.Match(e.id) && !yield(e) {
					return
				}
			}
		}
	}
}

// compareToQuery compares an id with the range of those that can match a query of
// one kind: by kind, and by the names of the scope up to the first that is open.
func compareToQuery(id ID, kind Kind, q Query) int {
	if c := cmp.Compare(id.Kind, kind); c != 0 {
		return c
	}
	for _, name := range [3][2]string{
		{id.Scope.Namespace, q.Scope.Namespace},
		{id.Scope.Component, q.Scope.Component},
		{id.Scope.Endpoint, q.Scope.Endpoint},
	} {
		if name[1] == "" && !q.Exact {
			return 0
		}
		if c := cmp.Compare(name[0], name[1]); c != 0 {
			return c
		}
	}
	return 0
}

// cacheChange is the step from one state to the next. An update has both entries,
// and the end of a series of unordered changes neither.
type cacheChange struct {
	sequence    uint64
	former, now *cacheEntry
	more        bool // as in Change
}

// differences returns the changes that lead from the entries of one state that match
// q to those of a later one. They have no order, and therefore more, except for
// the last.
func differences(q Query, from, to *cacheState) []cacheChange {
	var out []cacheChange
	old, stopOld := iter.Pull(from.matching(q))
	defer stopOld()
	young, stopYoung := iter.Pull(to.matching(q))
	defer stopYoung()
	a, okA := old()
	b, okB := young()
	for okA || okB {
		order := 0
		switch {
		case !okB:
			order = -1
		case !okA:
			order = 1
		default:
			order = a.id.Compare(b.id)
		}
		switch {
		case order < 0:
			out = append(out, cacheChange{former: a, more: true})
		case order > 0:
			out = append(out, cacheChange{now: b, more: true})
		case a != b:
			out = append(out, cacheChange{former: a, now: b, more: true})
		}
		if order <= 0 {
			a, okA = old()
		}
		if order >= 0 {
			b, okB = young()
		}
	}
	return append(out, cacheChange{})
}
