package eventplane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/internal/wait"
)

var (
	scope = discovery.Scope{Namespace: "ns", Component: "c"}
	below = discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "e"}
)

// connections is a connector that records its connections, and each endpoint
// that is connected or disconnected twice.
type connections struct {
	mu   sync.Mutex
	set  map[string]bool
	errs []string
}

func (c *connections) Connect(endpoint string) error    { return c.put(endpoint, true) }
func (c *connections) Disconnect(endpoint string) error { return c.put(endpoint, false) }

func (c *connections) put(endpoint string, on bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.HasPrefix(endpoint, "bad") {
		return errors.New("malformed")
	}
	if c.set[endpoint] == on {
		c.errs = append(c.errs, endpoint)
	}
	c.set[endpoint] = on
	return nil
}

func (c *connections) now() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.set, func(_ string, on bool) bool { return !on })
	return strings.Join(append(slices.Sorted(maps.Keys(c.set)), c.errs...), " ")
}

// breakable is a store whose watches can be made to fail.
type breakable struct {
	discovery.Store
	mu     sync.Mutex
	broken chan struct{} // closed while watches fail
}

func (b *breakable) Watch(ctx context.Context, q discovery.Query) (discovery.Watcher, error) {
	broken := b.state()
	select {
	case <-broken:
		return nil, errors.New("broken")
	default:
	}
	w, err := b.Store.Watch(ctx, q)
	return &breakableWatcher{w, broken}, err
}

func (b *breakable) state() chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}

func (b *breakable) repair() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = make(chan struct{})
}

type breakableWatcher struct {
	discovery.Watcher
	broken chan struct{}
}

func (w *breakableWatcher) Next(ctx context.Context) (discovery.Change, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-w.broken:
			cancel()
		case <-ctx.Done():
		}
	}()
	ch, err := w.Watcher.Next(ctx)
	if err != nil {
		err = errors.New("broken")
	}
	return ch, err
}

// followTest is a follower of topic kv-events in scope, and a registry that the
// test writes to.
type followTest struct {
	t      *testing.T
	writer *discovery.Client
	store  *breakable
	conns  *connections
	follow *follower
	log    bytes.Buffer
	held   map[uint64]*discovery.Registration
}

func newFollowTest(t *testing.T) *followTest {
	t.Helper()
	m := memory.New()
	f := &followTest{
		t: t, writer: discovery.NewClient(m.Open(), discovery.Options{}),
		store: &breakable{Store: m.Open(), broken: make(chan struct{})},
		conns: &connections{set: map[string]bool{}}, held: map[uint64]*discovery.Registration{},
	}
	r, err := newRoute(scope, "kv-events", WireGen2)
	f.must(err)
	f.follow = &follower{
		discovery: discovery.NewClient(f.store, discovery.Options{}),
		query:     r.channels(),
		match:     matchDirect, to: f.conns, log: slog.New(slog.NewTextHandler(&f.log, nil)),
	}
	return f
}

func (f *followTest) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *followTest) add(id uint64, at discovery.Scope, transport discovery.Transport) {
	f.t.Helper()
	reg, err := f.writer.RegisterAs(f.t.Context(), id, discovery.EventChannel{Scope: at, Topic: "kv-events", Transport: transport})
	f.must(err)
	f.held[id] = reg
}

func (f *followTest) remove(id uint64) {
	f.t.Helper()
	f.must(f.held[id].Unregister(f.t.Context()))
}

// expect waits until all goroutines are idle, and compares the connections.
func (f *followTest) expect(connected string) {
	f.t.Helper()
	synctest.Wait()
	if got := f.conns.now(); got != connected {
		f.t.Fatalf("connected to %q: want %q", got, connected)
	}
}

func endpoint(e string) discovery.Transport { return discovery.ZMQ{Endpoint: e} }

func TestFollowerConnectsToRegisteredPublishers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFollowTest(t)
		f.add(1, scope, endpoint("a"))
		f.add(2, below, endpoint("below"))
		f.follow.start()
		defer f.follow.stop()
		f.must(f.follow.wait(t.Context()))
		f.expect("a")
		f.add(3, scope, endpoint("b"))
		f.expect("a b")
		f.add(4, scope, endpoint("a")) // one endpoint, two channels
		f.remove(1)
		f.expect("a b")
		f.remove(4)
		f.expect("b")
		f.add(3, scope, endpoint("c")) // another endpoint, the same id
		f.expect("c")
		f.add(5, scope, endpoint("bad"))
		f.add(6, scope, endpoint("d"))
		f.expect("c d")
		f.remove(5)
		f.remove(6)
		f.expect("c")
	})
}

func TestFollowerKeepsConnectionsWhileTheWatchFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFollowTest(t)
		f.add(1, scope, endpoint("a"))
		f.add(2, scope, endpoint("b"))
		f.follow.start()
		defer f.follow.stop()
		f.expect("a b")
		close(f.store.state())
		f.expect("a b")
		f.add(3, scope, endpoint("c"))
		f.remove(1)
		f.must(wait.Sleep(t.Context(), 10*maxWatchRetry))
		f.expect("a b")
		f.store.repair()
		f.must(wait.Sleep(t.Context(), maxWatchRetry))
		f.expect("b c")
		if n := strings.Count(f.log.String(), "level=WARN"); n != 1 {
			t.Errorf("%d warnings in %s: want one", n, f.log.String())
		}
	})
}

func TestFollowerCountsOtherTransports(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFollowTest(t)
		f.add(1, scope, discovery.ZMQBroker{XSubEndpoints: []string{"x"}})
		f.add(2, scope, discovery.NATS{SubjectPrefix: "p"})
		f.add(3, below, discovery.NATS{SubjectPrefix: "p"})
		f.add(4, scope, discovery.UnknownTransport{Raw: json.RawMessage(`{"kind":"Quic"}`)})
		f.follow.start()
		defer f.follow.stop()
		f.expect("")
		if n := f.follow.incompatible.Load(); n != 3 {
			t.Errorf("%d incompatible channels: want 3", n)
		}
		f.add(1, scope, endpoint("a"))
		f.remove(2)
		f.remove(4)
		f.expect("a")
		if n := f.follow.incompatible.Load(); n != 0 {
			t.Errorf("%d incompatible channels: want none", n)
		}
		if n := strings.Count(f.log.String(), "remedy="); n != 1 {
			t.Errorf("%d warnings in %s: want one", n, f.log.String())
		}
	})
}

func TestFollowerStopsWhileItWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFollowTest(t)
		close(f.store.state())
		f.follow.start()
		ctx, cancel := context.WithTimeout(t.Context(), maxWatchRetry)
		defer cancel()
		if err := f.follow.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait: %v", err)
		}
		f.follow.stop()
		f.follow.stop()
		if err := f.follow.wait(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("wait after stop: %v", err)
		}
	})
}
