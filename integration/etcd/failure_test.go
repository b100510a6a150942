package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/etcd"
	"github.com/dynplane/dynplane/internal/latencyproxy"
	"github.com/dynplane/dynplane/internal/waittest"
)

// slowURL returns the address of a server behind a proxy that delays each
// direction.
func slowURL(t *testing.T, s *server, delay time.Duration) string {
	t.Helper()
	p, err := latencyproxy.Start(s.config.Listen, delay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return "http://" + p.Addr()
}

// TestCanceledRegistersLeaveNothing cancels takeovers and first registrations at
// random moments: those that fail change nothing and end no other owner's lease.
func TestCanceledRegistersLeaveNothing(t *testing.T) {
	t.Parallel()
	const attempts = 400
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := runServer(t)
	owner := openStore(t, etcd.Options{Endpoints: []string{s.url()}, TTL: 10 * time.Second})
	taker := openStore(t, etcd.Options{Endpoints: []string{slowURL(t, s, 5*time.Millisecond)}, TTL: 10 * time.Second})
	leaseOf(t, taker, attempts, "x") // so that the attempts need no etcd lease
	var wg sync.WaitGroup
	var failed, succeeded atomic.Int64
	slots := make(chan struct{}, 16)
	for id := range uint64(attempts) {
		after, owned := time.Duration(random.Int64N(int64(30*time.Millisecond))), id%2 == 0
		if id%5 == 0 {
			after = 0
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			var former discovery.Lease
			if owned {
				former = leaseOf(t, owner, id, "former")
			}
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			_, err := taker.Register(ctx, worker.ID(id), valueOf(t, id, "new"), discovery.RegisterOptions{})
			switch {
			case err == nil:
				succeeded.Add(1)
				expectValue(t, owner, id, "new")
				return
			case !errors.Is(err, context.DeadlineExceeded):
				t.Errorf("register: %v", err)
			}
			failed.Add(1)
			if !owned {
				if got, err := owner.Get(t.Context(), worker.ID(id)); !errors.Is(err, discovery.ErrNotFound) {
					t.Errorf("a canceled Register left %s, %v", got, err)
				}
				return
			}
			expectValue(t, owner, id, "former")
			if h, _ := former.Health(); !h.Healthy {
				t.Errorf("a canceled Register ended the former owner's lease: %v", h.Err)
			}
		})
	}
	wg.Wait()
	if failed.Load() == 0 || succeeded.Load() == 0 {
		t.Errorf("%d attempts failed and %d succeeded, want some of both", failed.Load(), succeeded.Load())
	}
}

// TestUnansweredRegistersAreUndone loses the connection during registrations: once
// it is back, the entries of those that failed are gone, and those of the former
// owner, are back.
func TestUnansweredRegistersAreUndone(t *testing.T) {
	t.Parallel()
	const ids = 60
	s := runServer(t)
	p, raw := newProxy(t, s.config.Listen), s.raw()
	reader := openStore(t, etcd.Options{Endpoints: []string{s.url()}})
	taker := openStore(t, etcd.Options{Endpoints: []string{p.url()}, TTL: 120 * time.Second})
	kept := leaseOf(t, taker, ids, "x")
	former, err := raw.Grant(t.Context(), 600)
	if err != nil {
		t.Fatal(err)
	}
	for id := uint64(0); id < ids; id += 2 {
		if _, err := raw.Put(t.Context(), keyOf(id), string(valueOf(t, id, "former")), clientv3.WithLease(former.ID)); err != nil {
			t.Fatal(err)
		}
	}
	errs := make([]error, ids)
	var wg sync.WaitGroup
	for id := range uint64(ids) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		wg.Go(func() {
			_, errs[id] = taker.Register(ctx, worker.ID(id), valueOf(t, id, "new"), discovery.RegisterOptions{})
		})
		if id == ids/2 {
			p.disconnect()
		}
	}
	wg.Wait()
	p.reconnect()
	for id := range uint64(ids) {
		waittest.Eventually(t, fmt.Sprintf("entry %d after %v", id, errs[id]), func() bool {
			got, err := reader.Get(t.Context(), worker.ID(id))
			switch {
			case errs[id] == nil:
				return string(got) == string(valueOf(t, id, "new"))
			case id%2 == 0:
				return string(got) == string(valueOf(t, id, "former"))
			}
			return errors.Is(err, discovery.ErrNotFound)
		})
	}
	if h := awaitHealth(t, kept, true); h.Err != nil {
		t.Error(h.Err)
	}
}

// countEntries returns the number of endpoints in the server.
func countEntries(t *testing.T, raw *clientv3.Client) int64 {
	t.Helper()
	resp, err := raw.Get(t.Context(), "v1/instances/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return resp.Count
}

// TestUnregisterContinues: after a failure it does not return nil before the entry
// is removed.
func TestUnregisterContinues(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	p, raw := newProxy(t, s.config.Listen), s.raw()
	store := openStore(t, etcd.Options{Endpoints: []string{p.url()}, TTL: time.Hour})
	l := leaseOf(t, store, 1, "a")
	p.disconnect()
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := l.Unregister(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("unregister without a connection: %v, want a time-out", err)
		}
		cancel()
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := l.Unregister(t.Context()); err != nil {
				t.Errorf("unregister: %v", err)
			} else if n := countEntries(t, raw); n != 0 {
				t.Errorf("unregister has returned nil, and there are %d entries", n)
			}
		})
	}
	p.reconnect()
	wg.Wait()
}

// TestShutdownContinues: after a failure it does not return nil before the entries
// are removed, and a second one at the same time waits for that.
func TestShutdownContinues(t *testing.T) {
	t.Parallel()
	const entries = 1000
	s := runServer(t)
	p, raw := newProxy(t, s.config.Listen), s.raw()
	store := openStore(t, etcd.Options{Endpoints: []string{p.url()}, TTL: 60 * time.Second})
	registerMany(t, store, entries)
	first := leaseOf(t, store, 0, "again")
	p.disconnect()
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := store.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shutdown without a connection: %v, want a time-out", err)
		}
		cancel()
	}
	if n := countEntries(t, raw); n != entries {
		t.Errorf("%d entries, want %d", n, entries)
	}
	p.reconnect()
	var wg sync.WaitGroup
	for _, end := range []func(context.Context) error{store.Shutdown, store.Shutdown, first.Unregister} {
		wg.Go(func() {
			if err := end(t.Context()); err != nil {
				t.Errorf("shutdown: %v", err)
			} else if n := countEntries(t, raw); n != 0 {
				t.Errorf("shutdown has returned nil, and there are %d entries", n)
			}
		})
	}
	wg.Wait()
}

// TestShutdownOfAGoneServer stops the server during calls. They end at once, and a
// Shutdown is bounded by the TTL, or ends at once if nothing is registered.
func TestShutdownOfAGoneServer(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	for _, registered := range []bool{false, true} {
		store := openStore(t, etcd.Options{Endpoints: []string{s.url()}, TTL: 2 * time.Second})
		if registered {
			leaseOf(t, store, 1, "a")
		}
		w, err := store.Watch(t.Context(), endpoints)
		if err != nil {
			t.Fatal(err)
		}
		s.signal(syscall.SIGSTOP)
		waittest.Eventually(t, "the server is stopped", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, err := store.Get(ctx, worker.ID(1))
			return errors.Is(err, context.DeadlineExceeded)
		})
		calls := map[string]func() error{
			"register": func() error {
				_, err := store.Register(t.Context(), worker.ID(2), valueOf(t, 2, "a"), discovery.RegisterOptions{})
				return err
			},
			"get":  func() error { _, err := store.Get(t.Context(), worker.ID(1)); return err },
			"next": func() error { _, err := w.Next(t.Context()); return err },
		}
		var wg sync.WaitGroup
		var began atomic.Pointer[time.Time]
		for name, call := range calls {
			wg.Go(func() {
				err := call()
				if !errors.Is(err, discovery.ErrClosed) {
					t.Errorf("%s: %v, want ErrClosed", name, err)
				}
				if at := began.Load(); at == nil || time.Since(*at) > 5*time.Second {
					t.Errorf("%s has ended at %v after the shutdown", name, at)
				}
			})
		}
		rest(t, 300*time.Millisecond) // the requests are under way
		at := time.Now()
		began.Store(&at)
		err = store.Shutdown(t.Context())
		took := time.Since(at)
		wg.Wait()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if took > 8*time.Second || !registered && took > 5*time.Second && err == nil {
			t.Errorf("shutdown took %v, want at most the TTL", took)
		}
		if registered && err == nil {
			t.Error("shutdown has returned nil, and its entry is registered")
		}
		s.signal(syscall.SIGCONT)
		if err := store.Shutdown(t.Context()); err != nil {
			t.Errorf("shutdown once the server is back: %v", err)
		}
		if n := countEntries(t, s.raw()); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	}
}
