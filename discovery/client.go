package discovery

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
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
	views     modelViews
	watches   sharedWatches
	caches    atomic.Pointer[[]*Cache]
	closed    chan struct{} // closed when Shutdown begins
	closing   sync.Once
}

// NewClient returns a client of a store. Its Shutdown shuts the store down.
func NewClient(store Store, o Options) *Client {
	if o.InstanceID == 0 {
		o.InstanceID = NewInstanceID()
	}
	return &Client{store: store, instance: o.InstanceID, log: orSilent(o.Logger), closed: make(chan struct{})}
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

func (c *Client) isClosed() bool { return isClosed(c.closed) }

// Get returns the instance that is registered under id now, or an error that
// wraps ErrNotFound.
func (c *Client) Get(ctx context.Context, id ID) (Instance, error) {
	if err := id.validate(); err != nil {
		return Instance{}, fmt.Errorf("discovery: get: %w", err)
	}
	value, err := c.store.Get(ctx, id)
	if err != nil {
		return Instance{}, getError(ctx, id, err)
	}
	in, err := decodeEntry(id, value)
	if err != nil {
		c.warnBad(id.Path(), err)
		return Instance{}, err
	}
	return in, nil
}

func getError(ctx context.Context, id ID, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("discovery: get %s: %w", id, err)
}

// decode returns the entry of an OpPut.
func (ch Change) decode() (*storedEntry, error) {
	if ch.stored != nil {
		return ch.stored, nil
	}
	return interned.entry(ch.ID, ch.Value)
}

// decodeEntry decodes the value of the entry of id.
func decodeEntry(id ID, value []byte) (Instance, error) {
	in, err := decodeInstance(value)
	if err != nil {
		return Instance{}, err
	}
	if in.ID() != id {
		return Instance{}, fmt.Errorf("discovery: the entry contains the registration of %v %s", in.ID().Kind, in.ID())
	}
	return in, nil
}

// List returns the instances that match q now, ordered by ID.
func (c *Client) List(ctx context.Context, q Query) ([]Instance, error) {
	if cache, run := c.runningCache(q); cache != nil && ctx.Err() == nil {
		select {
		case <-run.synced:
			return cache.List(q), nil
		case <-run.ended:
		case <-c.closed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	found := map[ID]Instance{}
	err := c.watchStore(ctx, q, newReconciler(q.Match), func(ev Event) bool {
		// An instance that changes during the listing is delivered twice, or
		// removed again.
		switch id := ev.Instance.ID(); ev.Type {
		case Synced:
			return false
		case Removed:
			delete(found, id)
		default:
			found[id] = ev.Instance
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	return sortedByID(found), nil
}

// WaitForInstances blocks until at least n instances match q, and returns all that
// match then, ordered by ID.
func (c *Client) WaitForInstances(ctx context.Context, q Query, n int) ([]Instance, error) {
	found, synced := map[ID]Instance{}, false
	for ev, err := range c.Watch(ctx, q) {
		if err != nil {
			return nil, err
		}
		switch ev.Type {
		case Synced:
			synced = true
		case Removed:
			delete(found, ev.Instance.ID())
		default:
			found[ev.Instance.ID()] = ev.Instance
		}
		if synced && len(found) >= n {
			break
		}
	}
	return sortedByID(found), nil
}

func sortedByID(found map[ID]Instance) []Instance {
	return slices.SortedFunc(maps.Values(found), func(a, b Instance) int { return a.ID().Compare(b.ID()) })
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
	c.closing.Do(func() { close(c.closed) })
	c.watches.close() // while the store can release what they occupy, as of the views
	c.views.close()   // while the store can release what they occupy
	if err := c.store.Shutdown(ctx); err != nil {
		return fmt.Errorf("discovery: shutdown: %w", err)
	}
	return nil
}
