package discovery

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync/atomic"
	"time"
)

// Cache is the present state of some queries, kept by one watch for a whole
// process. Its reads take no lock, cost no request and may run at any rate. While
// Run is under way, the client's List, its watches and the conflict check of
// models use the cache instead of the store, where it covers their query; hence a
// process with many of them lists and decodes each registration once.
//
// Reads before the first listing find nothing; see Ready. The cache guarantees
// what Client.Watch does, and is as late as that; see Age.
type Cache struct {
	client  *Client
	queries []Query
	cover   Query // contains all of queries
	ready   chan struct{}

	running atomic.Pointer[cacheRun] // nil while Run is not under way
	state   atomic.Pointer[cacheState]
	alive   atomic.Pointer[time.Time] // when the store was last reached, as far as is proven
	ring    [cacheRing]atomic.Pointer[cacheChange]

	// They belong to Run.
	busy      atomic.Bool
	rec       *reconciler
	unsettled bool // the last change that was published had more
	progress  bool // the store reports progress
}

// cacheRing is the number of changes by which a watch on a cache may be late before
// it compares states instead.
const cacheRing = 1024

// cacheRun is one call of Run.
type cacheRun struct {
	synced   chan struct{} // closed at the end of the first listing
	ended    chan struct{} // closed when the state changes no more
	prompter Prompter      // the watcher, or nil if it is none; set before synced is closed
	proof    atomic.Pointer[cacheProof]
}

// cacheProof is that the state has everything that was registered at a time.
type cacheProof struct {
	at   time.Time
	next chan struct{} // closed once there is a later one
}

func newCacheRun() *cacheRun {
	run := &cacheRun{synced: make(chan struct{}), ended: make(chan struct{})}
	run.proof.Store(&cacheProof{next: make(chan struct{})})
	return run
}

func (r *cacheRun) prove(at time.Time) {
	if last := r.proof.Load(); at.After(last.at) {
		r.proof.Store(&cacheProof{at, make(chan struct{})})
		close(last.next)
	}
}

// NewCache returns a cache of all registrations that match one of the queries, or
// of all registrations if there is none. The cache follows several queries by one
// watch of the narrowest query that contains them.
//
//	cache := discovery.NewCache(client, discovery.Query{Kind: discovery.KindAny, Scope: scope})
//	go func() { done <- cache.Run(ctx) }()
func NewCache(c *Client, queries ...Query) *Cache {
	if len(queries) == 0 {
		queries = []Query{{Kind: KindAny}}
	}
	cache := &Cache{client: c, queries: queries, cover: queries[0], ready: make(chan struct{})}
	for _, q := range queries[1:] {
		cache.cover = cache.cover.union(q)
	}
	now := time.Now()
	cache.alive.Store(&now)
	cache.state.Store(newCacheState(0, nil))
	return cache
}

// UseCache makes this client, too, use a cache that was made with another client of
// the same store, while that cache runs.
func (c *Client) UseCache(cache *Cache) {
	for {
		former := c.caches.Load()
		caches := []*Cache{cache}
		if former != nil {
			if slices.Contains(*former, cache) {
				return
			}
			caches = append(caches, *former...)
		}
		if c.caches.CompareAndSwap(former, &caches) {
			return
		}
	}
}

// dropCache undoes UseCache.
func (c *Client) dropCache(cache *Cache) {
	for {
		former := c.caches.Load()
		caches := slices.DeleteFunc(slices.Clone(*former), func(other *Cache) bool { return other == cache })
		if c.caches.CompareAndSwap(former, &caches) {
			return
		}
	}
}

// runningCache returns a cache that is running and covers q, or nil.
func (c *Client) runningCache(q Query) (*Cache, *cacheRun) {
	if caches := c.caches.Load(); caches != nil && !c.isClosed() {
		for _, cache := range *caches {
			if run := cache.running.Load(); run != nil && cache.covers(q) {
				return cache, run
			}
		}
	}
	return nil, nil
}

// covers reports whether the cache has all registrations that match q.
func (c *Cache) covers(q Query) bool {
	for _, own := range c.queries {
		if own.contains(q) {
			return true
		}
	}
	return false
}

// Run keeps the cache up to date until ctx is done, or the watch fails for good, and
// returns the reason. The watch reconnects by itself, as Client.Watch does. After
// Run has returned, the cache is stale and the client no longer uses it; watches on
// it continue on the store. Run may then be called again.
func (c *Cache) Run(ctx context.Context) error {
	if !c.busy.CompareAndSwap(false, true) {
		return errors.New("discovery: run of a cache: it is running already")
	}
	defer c.busy.Store(false)
	watcher, err := c.client.openStore(ctx, c.cover)
	if err != nil {
		return watchError(ctx, c.cover, err)
	}
	c.client.UseCache(c)
	defer c.client.dropCache(c)
	run := newCacheRun()
	c.running.Store(run)
	defer close(run.ended)
	defer c.running.Store(nil)
	return c.follow(ctx, run, watcher)
}

// follow keeps the state up to date by a watcher, and closes that.
func (c *Cache) follow(ctx context.Context, run *cacheRun, watcher Watcher) error {
	defer c.client.closeWatcher(watcher)
	if c.rec == nil {
		c.rec = newReconciler(c.matches)
	}
	c.rec.use(watcher)
	run.prompter, _ = watcher.(Prompter)
	return c.client.reconcile(ctx, c.cover, watcher, c.rec, func(ch Change, events []Event) bool {
		c.apply(run, ch, events)
		return true
	})
}

func (c *Cache) matches(id ID) bool {
	for _, q := range c.queries {
		if q.Match(id) {
			return true
		}
	}
	return false
}

// apply publishes the events that follow from a change.
func (c *Cache) apply(run *cacheRun, ch Change, events []Event) {
	if c.rec.reported { // the first listing is published as a whole
		if ch.Op == OpSynced && !isClosed(c.ready) {
			c.state.Store(newCacheState(1, c.rec.entries))
			close(c.ready)
		} else {
			for i, ev := range events {
				c.publish(ev, ch.More || i < len(events)-1)
			}
			if c.unsettled && !ch.More {
				c.advance(nil, nil, false)
			}
		}
	}
	if ch.Op == OpSynced && !isClosed(run.synced) {
		close(run.synced)
	}
	if ch.Op == OpProgress && !c.rec.listing {
		run.prove(ch.AliveSince)
	}
	c.prove(ch)
}

func (c *Cache) publish(ev Event, more bool) {
	if ev.Type == Synced {
		return
	}
	id := ev.Instance.ID()
	former := c.state.Load().get(id)
	if ev.Type == Removed {
		c.advance(former, nil, more)
		return
	}
	c.advance(former, newCacheEntry(c.rec.entries[id]), more)
}

// advance makes the next state. Its change is in the ring before it is the state.
func (c *Cache) advance(former, now *cacheEntry, more bool) {
	last := c.state.Load()
	next := last.with(former, now)
	c.ring[next.sequence%cacheRing].Store(&cacheChange{next.sequence, former, now, more})
	c.state.Store(next)
	c.unsettled = more
	close(last.changed)
}

// prove records that the store was reached. One that does not report progress
// proves it by the changes themselves.
func (c *Cache) prove(ch Change) {
	at := ch.AliveSince
	switch {
	case ch.Op == OpProgress:
		c.progress = true
	case c.progress:
		return
	default:
		at = time.Now()
	}
	if at.After(*c.alive.Load()) {
		c.alive.Store(&at)
	}
}

// changes returns those that lead from one state to a later one, or from the entries
// that match q to the later ones.
func (c *Cache) changes(q Query, from, to *cacheState) []cacheChange {
	if changes, ok := c.since(from, to); ok {
		return changes
	}
	return differences(q, from, to)
}

// since returns the changes that lead from one state to a later one, or false if
// the ring no longer has them all.
func (c *Cache) since(from, to *cacheState) ([]cacheChange, bool) {
	if to.sequence-from.sequence > cacheRing {
		return nil, false
	}
	out := make([]cacheChange, 0, to.sequence-from.sequence)
	for sequence := from.sequence + 1; sequence <= to.sequence; sequence++ {
		change := c.ring[sequence%cacheRing].Load()
		if change == nil || change.sequence != sequence {
			return nil, false
		}
		out = append(out, *change)
	}
	return out, true
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// Ready returns a channel that is closed once the cache has everything that was
// registered when its first watch began.
func (c *Cache) Ready() <-chan struct{} { return c.ready }

// Age returns how old the state of the cache may be: the time since the store was
// last proven reachable, with all earlier changes delivered. It is about a second
// in normal operation, and grows during an outage, and once Run has returned.
//
// The stores memory and kube do not report progress. On these it is the time since
// the last change, which means nothing.
func (c *Cache) Age() time.Duration { return time.Since(*c.alive.Load()) }

// Get returns the instance of an id, and whether there is one.
func (c *Cache) Get(id ID) (Instance, bool) {
	if e := c.state.Load().get(id); e != nil {
		return e.instance, true
	}
	return Instance{}, false
}

// List returns the instances that match q, ordered by ID. They are of one time.
func (c *Cache) List(q Query) []Instance { return instances(c.state.Load().matching(q)) }

// ByScope returns the instances of all kinds at exactly a scope, ordered by ID.
func (c *Cache) ByScope(scope Scope) []Instance {
	return c.List(Query{Kind: KindAny, Scope: scope, Exact: true})
}

// ByInstance returns the registrations of all kinds under an instance id, ordered
// by ID.
func (c *Cache) ByInstance(id uint64) []Instance {
	return instances(func(yield func(*cacheEntry) bool) {
		for e := range c.state.Load().byInstance.from(func(e *cacheEntry) bool { return e.id.Instance < id }) {
			if e.id.Instance != id || !yield(e) {
				return
			}
		}
	})
}

// ByModel returns the models whose display name is name, ordered by ID.
func (c *Cache) ByModel(name string) []Instance {
	return instances(func(yield func(*cacheEntry) bool) {
		for e := range c.state.Load().byModel.from(func(e *cacheEntry) bool { return e.model < name }) {
			if e.model != name || !yield(e) {
				return
			}
		}
	})
}

func instances(entries iter.Seq[*cacheEntry]) []Instance {
	var out []Instance
	for e := range entries {
		out = append(out, e.instance)
	}
	return out
}
