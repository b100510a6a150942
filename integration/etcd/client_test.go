package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/discoverytest"
	"github.com/dynplane/dynplane/discovery/etcd"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

var (
	endpoints = discovery.Query{Kind: discovery.KindEndpoint}
	channels  = discovery.Query{Kind: discovery.KindEventChannel}
)

var worker = discovery.Endpoint{
	Scope:     discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"},
	Transport: discovery.TCP("127.0.0.1:4000/1/generate"),
}

func TestConformance(t *testing.T) {
	t.Parallel()
	discoverytest.Run(t, func(t *testing.T) func() discovery.Store {
		t.Helper()
		s := runServer(t)
		return func() discovery.Store { return open(t, etcd.Options{Endpoints: []string{s.url()}}) }
	})
}

func open(tb testing.TB, o etcd.Options) *etcd.Store {
	tb.Helper()
	store, err := etcd.Dial(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	return store
}

// newClient opens a client with a TTL of 2 s.
func newClient(tb testing.TB, url string, log *logtest.Buffer) *discovery.Client {
	tb.Helper()
	o := etcd.Options{Endpoints: []string{url}, TTL: 2 * time.Second, Logger: log.Logger()}
	client := discovery.NewClient(open(tb, o), discovery.Options{Logger: log.Logger()})
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = client.Shutdown(ctx) // its server may be gone
	})
	return client
}

func register(tb testing.TB, c *discovery.Client, id uint64, spec discovery.Spec) *discovery.Registration {
	tb.Helper()
	reg, err := c.RegisterAs(tb.Context(), id, spec)
	if err != nil {
		tb.Fatalf("register: %v", err)
	}
	return reg
}

// own is the main function of an owner's process: it registers an endpoint and
// waits to be killed.
func own() error {
	ctx := context.Background()
	options, err := etcd.FromEnv(func(name string) (string, bool) { return os.Getenv(name), true })
	if err != nil {
		return err
	}
	store, err := etcd.Dial(ctx, options)
	if err != nil {
		return err
	}
	reg, err := discovery.NewClient(store, discovery.Options{}).RegisterAs(ctx, 66, worker)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, reg.Instance().ID())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// runOwner starts an owner's process and returns a function that kills it.
func runOwner(t *testing.T, url string) (kill func()) {
	t.Helper()
	cmd, _, out := child(t, "owner", "ETCD_ENDPOINTS="+url, "ETCD_LEASE_TTL=2")
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(kill)
	line := make([]byte, 1)
	if _, err := io.ReadFull(out, line); err != nil {
		t.Fatalf("the owner did not register: %v", err)
	}
	return kill
}

// watch collects the events of a watch in the background, as "+id" and "-id".
type watch struct {
	t  *testing.T
	mu sync.Mutex
	ev []string
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
			w.add(ev)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	w.await("synced")
	return w
}

func (w *watch) add(ev discovery.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch ev.Type {
	case discovery.Added:
		w.ev = append(w.ev, fmt.Sprint("+", ev.Instance.InstanceID))
	case discovery.Removed:
		w.ev = append(w.ev, fmt.Sprint("-", ev.Instance.InstanceID))
	case discovery.Synced:
		w.ev = append(w.ev, "synced")
	}
}

func (w *watch) count(what string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ev := range w.ev {
		if ev == what {
			n++
		}
	}
	return n
}

func (w *watch) await(what ...string) {
	w.t.Helper()
	for _, ev := range what {
		waittest.Eventually(w.t, ev, func() bool { return w.count(ev) > 0 })
	}
}

// expect requires exactly these events, in any order.
func (w *watch) expect(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	got := slices.Sorted(slices.Values(w.ev))
	w.mu.Unlock()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.t.Errorf("events %q, want %q", got, want)
	}
}
