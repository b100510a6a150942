package natsversions

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

const (
	writeStream = "DYNPLANE_dynplane"
	readStream  = "KV_dynplane"
)

var endpoints = discovery.Query{Kind: discovery.KindEndpoint}

func endpoint(name string) discovery.Endpoint {
	return discovery.Endpoint{
		Scope:     discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: name},
		Transport: discovery.TCP("127.0.0.1:4000/1/" + name),
	}
}

// client is a client on a connection of its own. Closing nc ends it as a crash
// would: without unregistering anything.
type client struct {
	*discovery.Client
	nc *nats.Conn
}

func newClient(t *testing.T, url string, o natskv.Options) client {
	t.Helper()
	nc := natstest.Connect(t, url)
	store, err := natskv.New(nc, o)
	if err != nil {
		t.Fatal(err)
	}
	c := client{discovery.NewClient(store, discovery.Options{}), nc}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
		defer cancel()
		if err := c.Shutdown(ctx); err != nil && nc.IsConnected() {
			t.Errorf("shutdown: %v", err)
		}
	})
	return c
}

// register may be called from any goroutine.
func (c client) register(t *testing.T, name string, ids ...uint64) {
	t.Helper()
	for _, id := range ids {
		if _, err := c.RegisterAs(t.Context(), id, endpoint(name)); err != nil {
			t.Errorf("register %s/%d: %v", name, id, err)
			return
		}
	}
}

// awaitListed waits until a list has so many instances.
func (c client) awaitListed(t *testing.T, n int) {
	t.Helper()
	waittest.Eventually(t, "all living owners are listed", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		got, err := c.List(ctx, endpoints)
		return err == nil && len(got) == n
	})
}

func (c client) jetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(c.nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// leader returns the server of a cluster that leads a stream.
func (c client) leader(t *testing.T, servers []*server, stream string) *server {
	t.Helper()
	js := c.jetStream(t)
	var name string
	waittest.Eventually(t, stream+" has a leader", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, stream)
		if err == nil && s.CachedInfo().Cluster != nil {
			name = s.CachedInfo().Cluster.Leader
		}
		return name != ""
	})
	return servers[name[len(name)-1]-'0']
}

// key is one registration.
type key struct {
	endpoint string
	id       uint64
}

// watch counts the events of a watch in the background.
type watch struct {
	t       *testing.T
	mu      sync.Mutex
	synced  bool
	added   map[key]int
	removed map[key][]time.Time
}

func startWatch(t *testing.T, c client) *watch {
	t.Helper()
	w := &watch{t: t, added: map[key]int{}, removed: map[key][]time.Time{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ev, err := range c.Watch(ctx, endpoints) {
			if err != nil {
				if !errors.Is(err, context.Canceled) && !errors.Is(err, discovery.ErrClosed) {
					t.Errorf("watch: %v", err)
				}
				return
			}
			w.record(ev)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	waittest.Eventually(t, "synced", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.synced
	})
	return w
}

func (w *watch) record(ev discovery.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ev.Type == discovery.Synced {
		w.synced = true
		return
	}
	e, ok := ev.Instance.Spec.(discovery.Endpoint)
	if !ok {
		return
	}
	k := key{e.Scope.Endpoint, ev.Instance.InstanceID}
	switch ev.Type {
	case discovery.Added:
		w.added[k]++
	case discovery.Removed:
		w.removed[k] = append(w.removed[k], time.Now())
	}
}

func (w *watch) awaitAdded(name string, ids ...uint64) {
	w.t.Helper()
	waittest.Eventually(w.t, "added to the watch", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, id := range ids {
			if w.added[key{name, id}] == 0 {
				return false
			}
		}
		return true
	})
}

// awaitRemoved returns the time of the first removal.
func (w *watch) awaitRemoved(name string, id uint64) (at time.Time) {
	w.t.Helper()
	waittest.Eventually(w.t, "removed from the watch", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		if removed := w.removed[key{name, id}]; len(removed) > 0 {
			at = removed[0]
		}
		return !at.IsZero()
	})
	return at
}

// expect requires that ids were added once, and removed so many times.
func (w *watch) expect(name string, removed int, ids ...uint64) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		k := key{name, id}
		if a, r := w.added[k], len(w.removed[k]); a != 1 || r != removed {
			w.t.Errorf("%s/%d: added %d times and removed %d times, want 1 and %d", name, id, a, r, removed)
		}
	}
}

// upTo returns the ids from first to last.
func upTo(first, last uint64) (ids []uint64) {
	for id := first; id <= last; id++ {
		ids = append(ids, id)
	}
	return ids
}

// outage waits while a server is down. It is the only wait for a time rather than
// a condition.
func outage(d time.Duration) { <-time.After(d) }
