package memory

import (
	"context"
	"errors"
	"sync"

	"github.com/dynplane/dynplane/discovery"
)

// watcher records which ids have changed, and reads their state when Next is
// called. Its memory is therefore bounded by the number of ids.
type watcher struct {
	store   *store
	query   discovery.Query
	listing []discovery.Change // what is left of the first listing
	changed map[discovery.ID]struct{}
	wake    chan struct{} // of capacity one
	done    chan struct{}
	once    sync.Once
}

// Watch implements discovery.Store.
func (s *store) Watch(_ context.Context, q discovery.Query) (discovery.Watcher, error) {
	w := &watcher{
		store: s, query: q, changed: map[discovery.ID]struct{}{},
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	if s.isClosed() {
		return nil, discovery.ErrClosed
	}
	w.listing = append(w.listing, discovery.Change{Op: discovery.OpReset})
	for id, l := range s.registry.entries {
		if q.Match(id) {
			w.listing = append(w.listing, put(l))
		}
	}
	w.listing = append(w.listing, discovery.Change{Op: discovery.OpSynced})
	s.registry.watchers[w] = struct{}{}
	return w, nil
}

func put(l *lease) discovery.Change {
	return discovery.Change{Op: discovery.OpPut, ID: l.id, Key: l.id.Path(), Value: l.value}
}

// markChanged requires the registry's lock.
func (w *watcher) markChanged(id discovery.ID) {
	w.changed[id] = struct{}{}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Next implements discovery.Watcher.
func (w *watcher) Next(ctx context.Context) (discovery.Change, error) {
	if err := ctx.Err(); err != nil {
		return discovery.Change{}, err
	}
	if len(w.listing) > 0 {
		ch := w.listing[0]
		w.listing = w.listing[1:]
		return ch, nil
	}
	for {
		if ch, ok := w.nextChange(); ok {
			return ch, nil
		}
		select {
		case <-w.wake:
		case <-w.done:
			return discovery.Change{}, errors.New("the watch is closed")
		case <-w.store.closed:
			return discovery.Change{}, discovery.ErrClosed
		case <-ctx.Done():
			return discovery.Change{}, ctx.Err()
		}
	}
}

// nextChange returns the present state of one of the changed ids.
func (w *watcher) nextChange() (discovery.Change, bool) {
	registry := w.store.registry
	registry.mu.Lock()
	defer registry.mu.Unlock()
	for id := range w.changed {
		delete(w.changed, id)
		ch := discovery.Change{Op: discovery.OpDelete, ID: id, Key: id.Path(), Cause: discovery.CauseUnregistered}
		if l := registry.entries[id]; l != nil {
			ch = put(l)
		}
		ch.More = len(w.changed) > 0 // the map has no order
		return ch, true
	}
	return discovery.Change{}, false
}

// Close implements discovery.Watcher.
func (w *watcher) Close() error {
	w.once.Do(func() {
		w.store.registry.mu.Lock()
		defer w.store.registry.mu.Unlock()
		delete(w.store.registry.watchers, w)
		close(w.done)
	})
	return nil
}
