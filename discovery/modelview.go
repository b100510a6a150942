package discovery

import (
	"context"
	"sync"
	"time"
)

// modelView is what the calls of one client that register models at one endpoint
// share: one watch of the models there, so that the cost of a registration does not
// depend on their number. It keeps only their identities.
//
// A view has no goroutine. One of the callers that wait for a change reads the
// watch, for itself and the others; when it has found what it waits for, or its
// context ends, the next one continues.
type modelView struct {
	client *Client
	query  Query
	reader chan struct{} // of capacity one: full while a caller reads the watch

	watcher Watcher // nil before the first read and after a failure; its owner is the reader
	fresh   bool    // watch the store itself; its owner is the reader

	mu       sync.Mutex
	models   map[ID]viewedModel
	begun    uint64        // listings
	complete bool          // no listing is under way
	at       viewPosition  // counts the changes
	settled  viewPosition  // up to here, all earlier changes have been read
	alive    time.Time     // the last AliveSince
	stale    bool          // the reader must begin a new watch
	changed  chan struct{} // closed with the next change; nil if no caller waits

	users int         // calls under way; guarded by modelViews.mu
	idle  *time.Timer // closes the view; guarded by modelViews.mu
}

type viewedModel struct {
	identity modelIdentity
	at       viewPosition
	listing  uint64 // that has it
}

// viewPosition counts the changes that a view has read, except for OpProgress.
type viewPosition uint64

func newModelView(c *Client, scope Scope) *modelView {
	return &modelView{
		client: c, query: Query{Kind: KindModel, Scope: scope, Exact: true},
		reader: make(chan struct{}, 1), models: map[ID]viewedModel{},
	}
}

// position returns the number of changes read.
func (v *modelView) position() viewPosition {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.at
}

// await reads the watch until ok, which is called with v.mu held, returns true.
func (v *modelView) await(ctx context.Context, ok func() bool) error {
	for {
		v.mu.Lock()
		if ok() {
			v.mu.Unlock()
			return nil
		}
		if v.changed == nil {
			v.changed = make(chan struct{})
		}
		changed := v.changed
		v.mu.Unlock()
		select {
		case v.reader <- struct{}{}:
			err := v.read(ctx, ok)
			<-v.reader
			return err
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// read requires that the caller is the reader.
func (v *modelView) read(ctx context.Context, ok func() bool) error {
	for {
		v.mu.Lock()
		done, stale := ok(), v.stale
		v.stale = false
		v.mu.Unlock()
		if done {
			return nil
		}
		if stale {
			v.drop()
			v.fresh = true
		}
		if err := v.step(ctx); err != nil {
			if ctx.Err() == nil { // the watch has failed: the next reader begins another
				v.drop()
			}
			return watchError(ctx, v.query, err)
		}
	}
}

func (v *modelView) step(ctx context.Context) error {
	if v.watcher == nil {
		open := v.client.openWatch
		if v.fresh { // a cache may have been late
			open = v.client.store.Watch
		}
		w, err := open(ctx, v.query)
		if err != nil {
			return err
		}
		v.watcher = w
	}
	ch, err := v.watcher.Next(ctx)
	if err != nil {
		return err
	}
	v.apply(ch)
	return nil
}

// drop closes the watch. It requires that the caller is the reader, or that there
// can be none.
func (v *modelView) drop() {
	v.mu.Lock()
	v.complete = false
	v.mu.Unlock()
	if v.watcher != nil {
		v.client.closeWatcher(v.watcher)
		v.watcher = nil
	}
}

func (v *modelView) apply(ch Change) {
	identity, isModel := modelIdentity{}, false
	if ch.Op == OpPut && v.query.Match(ch.ID) {
		stored, err := ch.decode()
		if err == nil {
			identity, err = stored.instance.Spec.(Model).identity()
		}
		if err != nil {
			ch.Op, ch.Err = OpInvalid, err
		}
		isModel = err == nil
	}
	if ch.Op == OpInvalid {
		v.client.warnBad(ch.Key, ch.Err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if ch.Op != OpProgress {
		v.at++
	}
	if !ch.More {
		v.settled = v.at
	}
	switch ch.Op {
	case OpReset:
		v.begun++
		v.complete = false
	case OpPut:
		if isModel {
			v.models[ch.ID] = viewedModel{identity, v.at, v.begun}
		}
	case OpInvalid: // the last valid value counts
		if m, ok := v.models[ch.ID]; ok {
			m.listing = v.begun
			v.models[ch.ID] = m
		}
	case OpDelete:
		delete(v.models, ch.ID)
	case OpSynced:
		v.complete = true
		for id, m := range v.models {
			if m.listing != v.begun {
				delete(v.models, id)
			}
		}
	case OpProgress:
		if ch.AliveSince.After(v.alive) {
			v.alive = ch.AliveSince
		}
	}
	if v.changed != nil {
		close(v.changed)
		v.changed = nil
	}
}

// isComplete reports whether the view has all models. It requires v.mu.
func (v *modelView) isComplete() bool { return v.complete }

// hasSeen reports whether a model that was written after a position, and at a time
// or before, has been read, as has every model that was written earlier. It requires
// v.mu.
func (v *modelView) hasSeen(own ID, want modelIdentity, before viewPosition, written time.Time) bool {
	m, ok := v.models[own]
	return ok && v.complete && m.identity == want && (m.at > before && m.at <= v.settled || !v.alive.Before(written))
}

// shows reports whether the view has a model of the identity under an id.
func (v *modelView) shows(id ID, identity modelIdentity) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	m, ok := v.models[id]
	return ok && m.identity == identity
}

// restart makes the next reader begin a new watch.
func (v *modelView) restart() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stale, v.complete = true, false
}

// conflict returns a model other than own that conflicts, and its position.
func (v *modelView) conflict(want modelIdentity, own ID) (ID, viewPosition, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, m := range v.models {
		if id != own && !want.compatible(m.identity) {
			return id, m.at, true
		}
	}
	return ID{}, 0, false
}

// correct sets the identity that the store has under id, nil for none, unless there
// has been a change since a position.
func (v *modelView) correct(id ID, at viewPosition, identity *modelIdentity) {
	v.mu.Lock()
	defer v.mu.Unlock()
	m, ok := v.models[id]
	switch {
	case !ok || m.at != at:
	case identity == nil:
		delete(v.models, id)
	default:
		m.identity = *identity
		v.models[id] = m
	}
}
