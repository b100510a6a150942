package discovery

import (
	"context"
	"fmt"
)

// cacheWatcher is a Watcher on a running Cache. It has no buffer but its place: a
// state that it has delivered. If the ring still has the changes since then, it
// delivers these, and otherwise the difference to the present state. Once the run has ended,
// it continues on the store of its own client, with a full listing.
type cacheWatcher struct {
	client *Client
	cache  *Cache
	run    *cacheRun
	query  Query

	at        *cacheState // nil before the first listing
	queued    []cacheStep
	unsettled bool    // the last step had more
	store     Watcher // nil while the run continues
}

// cacheStep is a change to deliver, in a form that takes little memory.
type cacheStep struct {
	op    Op
	entry *cacheEntry
	more  bool
}

// openWatch returns a watch of a running cache that covers q, or of the store.
func (c *Client) openWatch(ctx context.Context, q Query) (Watcher, error) {
	if cache, run := c.runningCache(q); cache != nil {
		return &cacheWatcher{client: c, cache: cache, run: run, query: q}, nil
	}
	return c.openStore(ctx, q)
}

func (c *Client) openStore(ctx context.Context, q Query) (Watcher, error) {
	watcher, err := c.store.Watch(ctx, q)
	if err == nil {
		_, prompts := watcher.(Prompter)
		c.watches.unfit.Store(!prompts)
	}
	return watcher, err
}

// Next implements Watcher.
func (w *cacheWatcher) Next(ctx context.Context) (Change, error) {
	for {
		switch {
		case ctx.Err() != nil:
			return Change{}, ctx.Err()
		case w.client.isClosed():
			return Change{}, ErrClosed
		case len(w.queued) > 0:
			step := w.queued[0]
			w.queued = w.queued[1:]
			return step.change(), nil
		case w.store != nil:
			return w.store.Next(ctx)
		}
		if err := w.step(ctx); err != nil {
			return Change{}, err
		}
	}
}

func (s cacheStep) change() Change {
	ch := Change{Op: s.op, More: s.more}
	switch s.op {
	case OpPut:
		ch.ID, ch.Key = s.entry.id, s.entry.id.Path()
		ch.Value, ch.TTL, ch.stored = s.entry.instance.Raw, s.entry.ttl, s.entry.storedEntry
	case OpDelete:
		ch.ID, ch.Key, ch.Cause = s.entry.id, s.entry.id.Path(), CauseUnregistered
	}
	return ch
}

// step queues what is new, or waits for it.
func (w *cacheWatcher) step(ctx context.Context) error {
	if w.at == nil {
		select {
		case <-w.run.synced:
			w.list()
			return nil
		case <-w.run.ended:
			return w.leave(ctx)
		case <-w.client.closed:
		case <-ctx.Done():
		}
		return nil
	}
	if now := w.cache.state.Load(); now != w.at {
		w.advance(now)
		return nil
	}
	select {
	case <-w.at.changed:
	case <-w.run.ended:
		if w.cache.state.Load() == w.at {
			return w.leave(ctx)
		}
	case <-w.client.closed:
	case <-ctx.Done():
	}
	return nil
}

func (w *cacheWatcher) list() {
	w.at = w.cache.state.Load()
	w.queued = append(w.queued, cacheStep{op: OpReset})
	for e := range w.at.matching(w.query) {
		w.queued = append(w.queued, cacheStep{op: OpPut, entry: e})
	}
	w.queued = append(w.queued, cacheStep{op: OpSynced})
}

func (w *cacheWatcher) advance(now *cacheState) {
	changes := w.cache.changes(w.query, w.at, now)
	w.at, w.queued = now, nil
	for _, change := range changes {
		step := cacheStep{more: change.more}
		switch {
		case change.now != nil && w.query.Match(change.now.id):
			step.op, step.entry = OpPut, change.now
		case change.now == nil && change.former != nil && w.query.Match(change.former.id):
			step.op, step.entry = OpDelete, change.former
		case w.unsettled && !change.more: // it settles the earlier ones
			step.op = OpProgress
		default:
			continue
		}
		w.queued = append(w.queued, step)
		w.unsettled = step.more
	}
}

// leave continues on the store.
func (w *cacheWatcher) leave(ctx context.Context) error {
	store, err := w.client.store.Watch(ctx, w.query)
	if err != nil {
		return fmt.Errorf("continue without the cache: %w", err)
	}
	w.store = store
	return nil
}

// Close implements Watcher.
func (w *cacheWatcher) Close() error {
	if w.store != nil {
		return w.store.Close()
	}
	return nil
}
