package integration

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

const bucket = "dynplane"

var endpoints = discovery.Query{Kind: discovery.KindEndpoint}

func endpoint(name string) discovery.Endpoint {
	return discovery.Endpoint{
		Scope:     discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: name},
		Transport: discovery.TCP("127.0.0.1:4000/1/" + name),
	}
}

// newClient opens a client on a connection of its own. die ends it as a crash
// would: without unregistering anything.
func newClient(t *testing.T, url string, o natskv.Options) (client *discovery.Client, die func()) {
	t.Helper()
	nc := natstest.Connect(t, url)
	o.Bucket = bucket
	store, err := natskv.New(nc, o)
	if err != nil {
		t.Fatal(err)
	}
	client = discovery.NewClient(store, discovery.Options{Logger: o.Logger})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
		defer cancel()
		if nc.IsConnected() {
			if err := client.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			return
		}
		cancel()
		_ = client.Shutdown(ctx) // nothing can be unregistered without a server
	})
	return client, nc.Close
}

func register(t *testing.T, c *discovery.Client, id uint64, spec discovery.Spec) *discovery.Registration {
	t.Helper()
	reg, err := c.RegisterAs(t.Context(), id, spec)
	if err != nil {
		t.Fatalf("register: %v", err)
	}
	return reg
}

// watch collects the events of a watch in the background, with the time of
// their arrival.
type watch struct {
	t  *testing.T
	mu sync.Mutex
	ev []timedEvent
}

type timedEvent struct {
	discovery.Event
	at time.Time
}

func startWatch(t *testing.T, c *discovery.Client, q discovery.Query) *watch {
	t.Helper()
	w := &watch{t: t}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ev, err := range c.Watch(ctx, q) {
			if err != nil {
				if !errors.Is(err, context.Canceled) && !errors.Is(err, discovery.ErrClosed) {
					t.Errorf("watch: %v", err)
				}
				return
			}
			w.mu.Lock()
			w.ev = append(w.ev, timedEvent{ev, time.Now()})
			w.mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	w.await("synced", func(ev []timedEvent) bool { return count(ev, discovery.Synced, 0) == 1 })
	return w
}

func (w *watch) events() []timedEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]timedEvent(nil), w.ev...)
}

func (w *watch) await(what string, ok func([]timedEvent) bool) {
	w.t.Helper()
	waittest.Eventually(w.t, what, func() bool { return ok(w.events()) })
}

// awaitRemoved waits for the removal of an id and returns the time of its arrival.
func (w *watch) awaitRemoved(id uint64) time.Time {
	w.t.Helper()
	w.await(fmt.Sprintf("%d removed", id), func(ev []timedEvent) bool { return count(ev, discovery.Removed, id) > 0 })
	for _, ev := range w.events() {
		if ev.Type == discovery.Removed && ev.Instance.InstanceID == id {
			return ev.at
		}
	}
	return time.Time{}
}

func (w *watch) awaitAdded(ids ...uint64) {
	w.t.Helper()
	w.await(fmt.Sprintf("%d added", ids), func(ev []timedEvent) bool {
		for _, id := range ids {
			if count(ev, discovery.Added, id) == 0 {
				return false
			}
		}
		return true
	})
}

// expect requires that an id was added once, and removed so many times.
func (w *watch) expect(id uint64, removed int) {
	w.t.Helper()
	ev := w.events()
	if a, r := count(ev, discovery.Added, id), count(ev, discovery.Removed, id); a != 1 || r != removed {
		w.t.Errorf("instance %d: added %d times and removed %d times, want 1 and %d", id, a, r, removed)
	}
}

func count(events []timedEvent, typ discovery.EventType, id uint64) (n int) {
	for _, ev := range events {
		if ev.Type == typ && ev.Instance.Spec != nil && ev.Instance.InstanceID == id || typ == discovery.Synced && ev.Type == typ {
			n++
		}
	}
	return n
}

// outage waits while a server is down. It is the only wait for a time rather
// than a condition.
func outage(d time.Duration) { <-time.After(d) }
