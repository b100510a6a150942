package discovery

import (
	"bytes"
	"context"
	"errors"
	"time"
)

// cacheFollower is a watch on a running Cache. Like cacheWatcher it has no buffer
// but a state that it has delivered. It makes events from the states, so that it
// keeps nothing for each entry.
type cacheFollower struct {
	client *Client
	cache  *Cache
	run    *cacheRun
	query  Query

	// since is when the watch began. Synced waits until the cache is proven to have
	// everything that was registered then. The zero time requires no proof.
	since time.Time

	at       *cacheState // nil before the first listing
	synced   bool        // Synced has been emitted
	prompted bool
}

// errRunEnded is why a follower has ended whose cache runs no more.
var errRunEnded = errors.New("the run of the cache has ended")

// follow returns nil once emit has returned false.
func (f *cacheFollower) follow(ctx context.Context, emit func(Event) bool) error {
	select {
	case <-f.run.synced:
	case <-f.run.ended:
		return errRunEnded
	case <-f.client.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	at := f.cache.state.Load()
	for e := range at.matching(f.query) {
		if err := f.interrupted(ctx); err != nil {
			return err
		}
		if !emit(Event{Type: Added, Instance: e.instance}) {
			return nil
		}
	}
	f.at = at
	for {
		if err := f.interrupted(ctx); err != nil {
			return err
		}
		proof := f.run.proof.Load() // before the state, which has all that it proves
		now := f.cache.state.Load()
		switch {
		case now != f.at:
			if stop, err := f.advance(ctx, now, emit); stop || err != nil {
				return err
			}
		case !f.synced && !proof.at.Before(f.since):
			f.synced = true
			if !emit(Event{Type: Synced}) {
				return nil
			}
		default:
			if err := f.wait(ctx, proof); err != nil {
				return err
			}
		}
	}
}

func (f *cacheFollower) interrupted(ctx context.Context) error {
	if f.client.isClosed() {
		return ErrClosed
	}
	return ctx.Err()
}

// advance emits the events that lead to a state.
func (f *cacheFollower) advance(ctx context.Context, now *cacheState, emit func(Event) bool) (stop bool, err error) {
	for _, change := range f.cache.changes(f.query, f.at, now) {
		ev, ok := change.event(f.query)
		if !ok {
			continue
		}
		if err := f.interrupted(ctx); err != nil {
			return false, err
		}
		if !emit(ev) {
			return true, nil
		}
	}
	f.at = now
	return false, nil
}

// event returns the event of a change, and false if q does not match it, or the
// value is the same.
func (c cacheChange) event(q Query) (Event, bool) {
	switch {
	case c.now != nil && !q.Match(c.now.id), c.now == nil && (c.former == nil || !q.Match(c.former.id)):
		return Event{}, false
	case c.now == nil:
		return Event{Type: Removed, Instance: c.former.instance}, true
	case c.former == nil:
		return Event{Type: Added, Instance: c.now.instance}, true
	case bytes.Equal(c.former.instance.Raw, c.now.instance.Raw):
		return Event{}, false
	}
	return Event{Type: Updated, Instance: c.now.instance, Previous: c.former.instance}, true
}

// wait blocks until there is a newer state or, before Synced, a newer proof.
func (f *cacheFollower) wait(ctx context.Context, proof *cacheProof) error {
	var proven <-chan struct{}
	if !f.synced {
		proven = proof.next
		if !f.prompted && f.run.prompter != nil {
			f.prompted = true
			f.run.prompter.Prompt()
		}
	}
	select {
	case <-f.at.changed:
	case <-proven:
	case <-f.run.ended:
		if f.cache.state.Load() == f.at {
			return errRunEnded
		}
	case <-f.client.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// reconciler returns one that continues on the store where the follower has ended.
func (f *cacheFollower) reconciler() *reconciler {
	rec := newReconciler(f.query.Match)
	if f.at == nil {
		return rec
	}
	rec.listings, rec.reported = 1, f.synced
	for e := range f.at.matching(f.query) {
		rec.see(reconciledEntry{storedEntry: e.storedEntry, ttl: e.ttl})
	}
	return rec
}
