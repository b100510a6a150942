package discovery

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dynplane/dynplane/internal/wait"
)

// Options are the settings of a Client. The zero value is useful.
type Options struct {
	// InstanceID is the id under which Register registers. Zero means a random
	// one, which is right unless ids are assigned elsewhere.
	InstanceID uint64

	// Logger receives warnings about invalid entries; nil disables logging.
	Logger *slog.Logger
}

// Client registers, lists and watches. It is safe for concurrent use.
type Client struct {
	store     Store
	instance  uint64
	log       *slog.Logger
	bad       atomic.Uint64
	snapshots atomic.Uint64 // made so far
}

// NewClient returns a client of a store. Its Shutdown shuts the store down.
func NewClient(store Store, o Options) *Client {
	if o.InstanceID == 0 {
		o.InstanceID = NewInstanceID()
	}
	return &Client{store: store, instance: o.InstanceID, log: orSilent(o.Logger)}
}

func orSilent(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// InstanceID returns the id under which Register registers.
func (c *Client) InstanceID() uint64 { return c.instance }

// Stats are the counters of a client.
type Stats struct {
	// InvalidEntries counts the entries that were skipped because they are not
	// valid registrations. An entry that is read twice counts twice.
	InvalidEntries uint64
}

// Stats returns a snapshot of the counters.
func (c *Client) Stats() Stats { return Stats{InvalidEntries: c.bad.Load()} }

// Registration is an instance that the client keeps registered.
type Registration struct {
	Instance Instance
	lease    Lease
}

// Unregister removes the registration; readers see the removal at once. It is
// idempotent.
func (r *Registration) Unregister(ctx context.Context) error {
	if err := r.lease.Unregister(ctx); err != nil {
		return fmt.Errorf("discovery: unregister %s: %w", r.Instance.ID(), err)
	}
	return nil
}

// Wait blocks until the registration has ended and returns the cause: an error
// that wraps ErrTakenOver, ErrClosed after Unregister or Shutdown, or ctx.Err().
// A lease that is lost and written again does not end the registration.
func (r *Registration) Wait(ctx context.Context) error {
	err := r.lease.Wait(ctx)
	if ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("discovery: registration %s: %w", r.Instance.ID(), err)
}

// Register registers spec under the client's instance id.
func (c *Client) Register(ctx context.Context, spec Spec) (*Registration, error) {
	return c.RegisterAs(ctx, c.instance, spec)
}

// RegisterAs registers spec under the given id, such as that of a publisher of
// events, and takes over an existing registration of the same id. A Model that
// conflicts with those of its endpoint is refused with ErrModelConflict.
func (c *Client) RegisterAs(ctx context.Context, instance uint64, spec Spec) (*Registration, error) {
	return c.RegisterInstance(ctx, Instance{InstanceID: instance, Spec: spec})
}

// RegisterInstance registers an instance that was read elsewhere. It stores the
// instance's Raw if there is one, including the fields that this version of the
// package does not define.
func (c *Client) RegisterInstance(ctx context.Context, in Instance) (*Registration, error) {
	spec, id := in.Spec, in.ID()
	if spec == nil {
		return nil, errors.New("discovery: register: the instance has no spec: want an Endpoint, Model, EventChannel or EventSource")
	}
	if err := errors.Join(id.validate(), spec.validate()); err != nil {
		return nil, fmt.Errorf("discovery: register: %w", err)
	}
	model, isModel := spec.(Model)
	if isModel {
		if _, err := c.checkConflict(ctx, model, id); err != nil {
			return nil, err
		}
	}
	if source, ok := spec.(EventSource); ok {
		if err := c.checkSource(ctx, source, id); err != nil {
			return nil, err
		}
	}
	value, err := in.stored()
	if err != nil {
		return nil, fmt.Errorf("discovery: register %s: %w", id, err)
	}
	lease, err := c.store.Register(ctx, id, value, RegisterOptions{})
	if err != nil {
		return nil, fmt.Errorf("discovery: register %s: %w", id, err)
	}
	reg := &Registration{Instance: in, lease: lease}
	if isModel {
		if err := c.confirmModel(ctx, reg, model); err != nil {
			return nil, err
		}
	}
	return reg, nil
}

// confirmModel repeats the conflict check once the model is registered, and
// unregisters it if there is a conflict. The list must contain the client's own
// entry: a replica may lag behind the write.
func (c *Client) confirmModel(ctx context.Context, reg *Registration, model Model) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		found, err := c.checkConflict(ctx, model, reg.Instance.ID())
		if err == nil && found {
			return nil
		}
		if err == nil {
			err = wait.Sleep(ctx, 50*time.Millisecond)
		}
		if err != nil {
			// The caller's context may be the cause.
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return errors.Join(err, reg.Unregister(undo))
		}
	}
}

// List returns the instances that match q now, ordered by ID.
func (c *Client) List(ctx context.Context, q Query) ([]Instance, error) {
	found := map[ID]Instance{}
	for ev, err := range c.Watch(ctx, q) {
		if err != nil {
			return nil, err
		}
		if ev.Type == Synced {
			break
		}
		// An instance that changes during the listing is delivered twice, or
		// removed again.
		if id := ev.Instance.ID(); ev.Type == Added {
			found[id] = ev.Instance
		} else {
			delete(found, id)
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b Instance) int { return a.ID().Compare(b.ID()) }), nil
}

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
)

// String returns added, removed or synced.
func (t EventType) String() string {
	switch t {
	case Added:
		return "added"
	case Removed:
		return "removed"
	case Synced:
		return "synced"
	}
	return fmt.Sprintf("EventType(%d)", uint8(t))
}

// Event is an element of a watch.
type Event struct {
	Type EventType

	// Instance is the zero Instance for Synced, whose ID is the zero ID.
	Instance Instance
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
	return func(yield func(Event, error) bool) {
		if err := c.watch(ctx, q, func(ev Event) bool { return yield(ev, nil) }); err != nil {
			yield(Event{}, err)
		}
	}
}

// watch returns nil once emit has returned false.
func (c *Client) watch(ctx context.Context, q Query, emit func(Event) bool) (err error) {
	watcher, err := c.store.Watch(ctx, q)
	if err != nil {
		return watchError(ctx, q, err)
	}
	defer func() {
		if cerr := watcher.Close(); cerr != nil {
			c.log.Debug("discovery: closing a watch failed", "error", cerr)
		}
	}()
	rec := newReconciler(watcher)
	for {
		change, err := watcher.Next(ctx)
		if err != nil {
			return watchError(ctx, q, err)
		}
		events, err := rec.apply(q, change, time.Now())
		if err != nil {
			c.warnBad(change.Key, err)
		}
		if change.Op == OpProgress {
			if events, err = rec.expire(ctx, time.Now()); err != nil {
				c.log.Warn("discovery: removals stay held until they are confirmed, retrying", "error", err)
			}
		}
		for _, ev := range events {
			if !emit(ev) {
				return nil
			}
		}
	}
}

func watchError(ctx context.Context, q Query, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("discovery: watch of kind %v at %q: %w", q.Kind, q.Scope, err)
}

func (c *Client) warnBad(key string, err error) {
	c.bad.Add(1)
	// The error quotes untrusted input; truncate it.
	c.log.Warn("discovery: skipped an invalid entry; remove it or fix its writer",
		"key", key, "error", fmt.Sprintf("%.300s", err))
}

// Shutdown unregisters everything that the client registered, at once, and
// shuts the store down. It is idempotent. Open watches end with an error that
// wraps ErrClosed.
func (c *Client) Shutdown(ctx context.Context) error {
	if err := c.store.Shutdown(ctx); err != nil {
		return fmt.Errorf("discovery: shutdown: %w", err)
	}
	return nil
}
