package discovery

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// EventType is the kind of an Event.
type EventType uint8

// The events of a watch.
const (
	// Added: the instance is registered, or its value has changed.
	Added EventType = iota + 1
	// Removed: the instance is no longer registered; Instance is its last value.
	Removed
	// Synced: everything that was registered when the watch began has been Added.
	Synced
	// Updated: the value of the instance has changed. Only a watch with
	// WatchOptions.Updates reports it; others report Added again.
	Updated
)

// String returns added, removed, synced or updated.
func (t EventType) String() string {
	switch t {
	case Added:
		return "added"
	case Removed:
		return "removed"
	case Synced:
		return "synced"
	case Updated:
		return "updated"
	}
	return fmt.Sprintf("EventType(%d)", uint8(t))
}

// Event is an element of a watch.
type Event struct {
	Type EventType

	// Instance is the zero Instance for Synced, whose ID is the zero ID.
	Instance Instance

	// Previous is the former value for Updated, and the zero Instance for the
	// other types.
	Previous Instance
}

// String returns the type and the path of the registration, such as
// "added dynamo/backend/generate/2a", and "synced" for Synced.
func (e Event) String() string {
	if e.Type == Synced {
		return e.Type.String()
	}
	return e.Type.String() + " " + e.Instance.ID().Path()
}

// Watch yields the instances that match q as Added, then Synced once, then each
// change, until ctx is done or the caller leaves the loop. Its last element is
// the error that ended it, which may be ctx.Err(). A watch that loses its store
// reconnects by itself, without reporting a change twice or missing one.
func (c *Client) Watch(ctx context.Context, q Query) iter.Seq2[Event, error] {
	return c.WatchWithOptions(ctx, q, WatchOptions{})
}

// WatchOptions are the settings of one watch. The zero value is useful.
type WatchOptions struct {
	// Updates reports a changed value as Updated, with the previous one, and not
	// as Added.
	Updates bool
}

// WatchWithOptions is Watch with options.
func (c *Client) WatchWithOptions(ctx context.Context, q Query, o WatchOptions) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := c.watch(ctx, q, o, func(ev Event) bool { return yield(ev, nil) }); err != nil {
			yield(Event{}, err)
		}
	}
}

// watch returns nil once emit has returned false.
func (c *Client) watch(ctx context.Context, q Query, o WatchOptions, emit func(Event) bool) error {
	shaped := func(ev Event) bool { return emit(o.shape(ev)) }
	if cache, run := c.runningCache(q); cache != nil {
		f := &cacheFollower{client: c, cache: cache, run: run, query: q}
		if err := f.follow(ctx, shaped); !errors.Is(err, errRunEnded) {
			return followError(ctx, q, err)
		}
		return c.watchStore(ctx, q, f.reconciler(), shaped)
	}
	for begun := time.Now(); ; {
		again, err := c.watchShared(ctx, q, begun, shaped)
		if !again {
			return err
		}
	}
}

// watchShared watches by the feed of the query, if there is one. It returns again if
// that failed before it delivered anything, and was opened before the watch: the
// store may accept a watch now.
func (c *Client) watchShared(ctx context.Context, q Query, begun time.Time, emit func(Event) bool) (again bool, err error) {
	shared := c.watches.enter(c, q)
	defer c.watches.leave(q, shared)
	if shared == nil {
		return false, c.watchStore(ctx, q, newReconciler(q.Match), emit)
	}
	f := &cacheFollower{client: c, cache: shared.cache, run: shared.run, query: q, since: begun}
	err = f.follow(ctx, emit)
	if errors.Is(err, errRunEnded) && !c.isClosed() {
		again = f.at == nil && shared.opened.Before(begun) || errors.Is(shared.err, errUnfit)
		return again, shared.err
	}
	return false, followError(ctx, q, err)
}

func followError(ctx context.Context, q Query, err error) error {
	if errors.Is(err, errRunEnded) {
		err = ErrClosed
	}
	if err != nil {
		err = watchError(ctx, q, err)
	}
	return err
}

// watchStore watches by a watcher of the store.
func (c *Client) watchStore(ctx context.Context, q Query, rec *reconciler, emit func(Event) bool) error {
	watcher, err := c.openStore(ctx, q)
	if err != nil {
		return watchError(ctx, q, err)
	}
	defer c.closeWatcher(watcher)
	rec.use(watcher)
	return c.reconcile(ctx, q, watcher, rec, func(_ Change, events []Event) bool {
		for _, ev := range events {
			if !emit(ev) {
				return false
			}
		}
		return true
	})
}

// reconcile passes each change, and the events that follow from it, to handle until
// that returns false.
func (c *Client) reconcile(ctx context.Context, q Query, w Watcher, rec *reconciler, handle func(Change, []Event) bool) error {
	for {
		change, err := w.Next(ctx)
		if err != nil {
			return watchError(ctx, q, err)
		}
		events, err := rec.apply(change, time.Now())
		if err != nil {
			c.warnBad(change.Key, err)
		}
		if change.Op == OpProgress {
			if events, err = rec.expire(ctx, time.Now()); err != nil {
				c.log.Warn("discovery: removals stay held until they are confirmed, retrying", "error", err)
			}
		}
		if !handle(change, events) {
			return nil
		}
	}
}

func (c *Client) closeWatcher(w Watcher) {
	if err := w.Close(); err != nil {
		c.log.Debug("discovery: closing a watch failed", "error", err)
	}
}

// shape returns ev, an Updated event included, as a watch with these options
// reports it.
func (o WatchOptions) shape(ev Event) Event {
	if ev.Type == Updated && !o.Updates {
		return Event{Type: Added, Instance: ev.Instance}
	}
	return ev
}

func watchError(ctx context.Context, q Query, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("discovery: watch of kind %v at %q: %w", q.Kind, q.Scope, err)
}
