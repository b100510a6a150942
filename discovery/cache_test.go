package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/internal/wait"
	"github.com/dynplane/dynplane/internal/waittest"
)

// runCache runs a cache until the test ends, or the returned function is called, and
// waits until it is ready.
func runCache(t *testing.T, cache *discovery.Cache) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- cache.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) && !errors.Is(err, discovery.ErrClosed) {
			t.Errorf("the cache ended with %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-cache.Ready():
	case <-time.After(waittest.Patience):
		t.Fatal("the cache is not ready")
	}
	return stop
}

func idsOf(found []discovery.Instance) string {
	var out []string
	for _, in := range found {
		out = append(out, fmt.Sprint(in.ID().Kind, " ", in.ID()))
	}
	return strings.Join(out, ", ")
}

func TestCacheReads(t *testing.T) {
	t.Parallel()
	registry := memory.New()
	worker := discovery.NewClient(registry.Open(), discovery.Options{})
	endpoint := discovery.Endpoint{Scope: generate, Transport: discovery.TCP("a")}
	channel := discovery.EventChannel{Scope: discovery.Scope{Namespace: "ns", Component: "comp"}, Topic: "t", Transport: discovery.ZMQ{Endpoint: "tcp://127.0.0.1:1"}}
	elsewhere := discovery.EventChannel{Scope: discovery.Scope{Namespace: "other"}, Topic: "t", Transport: channel.Transport}
	first := registerAs(t, worker, 1, endpoint)
	registerAs(t, worker, 1, modelNamed("m"))
	registerAs(t, worker, 2, modelNamed("m"))
	registerAs(t, worker, 2, channel)
	registerAs(t, worker, 2, elsewhere)

	c := discovery.NewClient(registry.Open(), discovery.Options{})
	cache := discovery.NewCache(c,
		discovery.Query{Kind: discovery.KindAny, Scope: generate},
		discovery.Query{Kind: discovery.KindEventChannel, Scope: discovery.Scope{Namespace: "ns"}},
	)
	if found := cache.List(discovery.Query{Kind: discovery.KindAny}); len(found) != 0 {
		t.Errorf("before the first listing the cache has %v", idsOf(found))
	}
	runCache(t, cache)
	compare := func(what string, got []discovery.Instance, want string) {
		t.Helper()
		if idsOf(got) != want {
			t.Errorf("%s: got %q, want %q", what, idsOf(got), want)
		}
	}
	compare("all", cache.List(discovery.Query{Kind: discovery.KindAny}), "Endpoint ns/comp/ep/1, Model ns/comp/ep/1, Model ns/comp/ep/2, EventChannel ns/comp/t/2")
	compare("by scope", cache.ByScope(channel.Scope), "EventChannel ns/comp/t/2")
	compare("by instance", cache.ByInstance(1), "Endpoint ns/comp/ep/1, Model ns/comp/ep/1")
	compare("by model", cache.ByModel("m"), "Model ns/comp/ep/1, Model ns/comp/ep/2")
	compare("by another model", cache.ByModel("n"), "")
	if in, ok := cache.Get(endpoint.ID(1)); !ok || !reflect.DeepEqual(in.Spec, endpoint) {
		t.Errorf("got %+v, %v", in, ok)
	}
	if in, ok := cache.Get(elsewhere.ID(2)); ok {
		t.Errorf("the cache has %+v, which matches none of its queries", in)
	}

	endpoint.Device = discovery.DeviceCPU
	if err := first.Update(t.Context(), endpoint); err != nil {
		t.Fatal(err)
	}
	waittest.Eventually(t, "the update is in the cache", func() bool {
		in, _ := cache.Get(endpoint.ID(1))
		return reflect.DeepEqual(in.Spec, endpoint)
	})
	if err := worker.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	registerAs(t, c, 3, modelNamed("n"))
	waittest.Eventually(t, "only the new model is in the cache", func() bool {
		return idsOf(cache.List(discovery.Query{Kind: discovery.KindAny})) == "Model ns/comp/ep/3"
	})
	compare("by the removed model", cache.ByModel("m"), "")
	compare("by the new model", cache.ByModel("n"), "Model ns/comp/ep/3")
	compare("by the removed instance", cache.ByInstance(1), "")
	if age := cache.Age(); age < 0 || age > waittest.Patience {
		t.Errorf("the age is %v", age)
	}
	if err := cache.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("a second Run: %v", err)
	}
}

// TestClientUsesItsCache: lists, watches and the registration of models open no
// other watch, and see what is covered only.
func TestClientUsesItsCache(t *testing.T) {
	t.Parallel()
	registry := memory.New()
	others := discovery.NewClient(registry.Open(), discovery.Options{})
	registerAs(t, others, 1, modelNamed("m"))
	store, second := &countingStore{Store: registry.Open()}, &countingStore{Store: registry.Open()}
	c, also := discovery.NewClient(store, discovery.Options{}), discovery.NewClient(second, discovery.Options{})
	cache := discovery.NewCache(c, discovery.Query{Kind: discovery.KindModel}, discovery.Query{Kind: discovery.KindEndpoint})
	also.UseCache(cache)
	stop := runCache(t, cache)
	for i, c := range []*discovery.Client{c, also} {
		found, err := c.List(t.Context(), discovery.Query{Kind: discovery.KindModel, Scope: discovery.Scope{Namespace: "ns"}})
		if err != nil || !strings.HasPrefix(idsOf(found), "Model ns/comp/ep/1") {
			t.Errorf("listed %q, %v", idsOf(found), err)
		}
		if _, err := c.RegisterAs(t.Context(), 9, modelNamed("other")); !errors.Is(err, discovery.ErrModelConflict) {
			t.Errorf("got %v, want ErrModelConflict", err)
		}
		registerAs(t, c, uint64(2+i), modelNamed("m"))
		found, err = c.WaitForInstances(t.Context(), discovery.Query{Kind: discovery.KindModel, Scope: generate, Exact: true}, 2+i)
		if err != nil || len(found) != 2+i {
			t.Errorf("waited for %q, %v", idsOf(found), err)
		}
	}
	if n, m := store.opened.Load(), second.opened.Load(); n != 1 || m != 0 {
		t.Errorf("%d and %d watches were opened, want the one of the cache", n, m)
	}
	if _, err := c.List(t.Context(), discovery.Query{Kind: discovery.KindEventChannel}); err != nil || store.opened.Load() != 2 {
		t.Errorf("a list that the cache does not cover: %v, and %d watches", err, store.opened.Load())
	}
	if err := also.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := also.List(t.Context(), discovery.Query{Kind: discovery.KindModel}); !errors.Is(err, discovery.ErrClosed) {
		t.Errorf("list after shutdown: %v, want ErrClosed", err)
	}
	stop()
	if found, err := c.List(t.Context(), discovery.Query{Kind: discovery.KindModel}); err != nil || len(found) != 2 || store.opened.Load() != 3 {
		t.Errorf("after the cache has ended: %q, %v, and %d watches", idsOf(found), err, store.opened.Load())
	}
}

// TestWatchOutlivesTheCache: it continues on the store without reporting a change
// twice or missing one.
func TestWatchOutlivesTheCache(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		registry := memory.New()
		worker := discovery.NewClient(registry.Open(), discovery.Options{})
		c := discovery.NewClient(registry.Open(), discovery.Options{})
		endpoint := discovery.Endpoint{Scope: generate, Transport: discovery.TCP("a")}
		registerAs(t, worker, 1, endpoint)
		cache := discovery.NewCache(c)
		stop := runCache(t, cache)
		next, end := iter.Pull2(c.WatchWithOptions(t.Context(), discovery.Query{Kind: discovery.KindEndpoint}, discovery.WatchOptions{Updates: true}))
		defer end()
		expect := func(want string) {
			t.Helper()
			if ev, err, _ := next(); err != nil || ev.String() != want {
				t.Fatalf("got %q, %v, want %q", ev, err, want)
			}
		}
		expect("added ns/comp/ep/1")
		expect("synced")
		second := registerAs(t, worker, 2, endpoint)
		expect("added ns/comp/ep/2")
		stop()
		registerAs(t, worker, 3, endpoint)
		expect("added ns/comp/ep/3")
		endpoint.Device = discovery.DeviceCPU
		if err := second.Update(t.Context(), endpoint); err != nil {
			t.Fatal(err)
		}
		expect("updated ns/comp/ep/2")
		if err := second.Unregister(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect("removed ns/comp/ep/2")
		restarted := runCache(t, cache)
		if _, ok := cache.Get(endpoint.ID(3)); !ok {
			synctest.Wait()
		}
		if got := idsOf(cache.List(discovery.Query{Kind: discovery.KindEndpoint})); !strings.Contains(got, "ep/3") {
			t.Errorf("the cache that runs again has %q", got)
		}
		restarted()
	})
}

// TestShutdownEndsWatchesOnACache, also on that of another client.
func TestShutdownEndsWatchesOnACache(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		registry := memory.New()
		owner, c := discovery.NewClient(registry.Open(), discovery.Options{}), discovery.NewClient(registry.Open(), discovery.Options{})
		cache := discovery.NewCache(owner)
		c.UseCache(cache)
		runCache(t, cache)
		for _, c := range []*discovery.Client{c, owner} {
			ended := make(chan error)
			go func() {
				var last error
				for _, err := range c.Watch(t.Context(), discovery.Query{Kind: discovery.KindEndpoint}) {
					last = err
				}
				ended <- last
			}()
			synctest.Wait()
			if err := c.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; !errors.Is(err, discovery.ErrClosed) {
				t.Errorf("the watch ended with %v, want ErrClosed", err)
			}
		}
	})
}

// TestCacheOfManyWithAStalledReader: a reader that stalls while more changes than the
// cache keeps happen misses none; lists and reads go on.
func TestCacheOfManyWithAStalledReader(t *testing.T) {
	t.Parallel()
	const entries, changes = 10_000, 3_000
	registry := memory.New()
	worker := discovery.NewClient(registry.Open(), discovery.Options{})
	endpoint := func(i int) discovery.Endpoint {
		scope := generate
		scope.Component = fmt.Sprint("comp-", i%100)
		return discovery.Endpoint{Scope: scope, Transport: discovery.TCP("a")}
	}
	regs := make([]*discovery.Registration, entries)
	for i := range entries {
		regs[i] = registerAs(t, worker, uint64(i), endpoint(i))
	}
	c := discovery.NewClient(registry.Open(), discovery.Options{})
	cache := discovery.NewCache(c, discovery.Query{Kind: discovery.KindEndpoint})
	runCache(t, cache)
	q := discovery.Query{Kind: discovery.KindEndpoint, Scope: discovery.Scope{Namespace: "ns"}}
	stalled, synced := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	present := map[discovery.ID]string{}
	var wrong atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		for ev, err := range c.WatchWithOptions(ctx, q, discovery.WatchOptions{Updates: true}) {
			if err != nil {
				return
			}
			if ev.Type == discovery.Synced {
				close(synced)
				<-stalled
				continue
			}
			mu.Lock()
			former, ok := present[ev.Instance.ID()]
			switch {
			case (ev.Type == discovery.Added) == ok:
				wrong.Add(1)
			case ev.Type == discovery.Updated && string(ev.Previous.Raw) != former:
				wrong.Add(1)
			}
			if present[ev.Instance.ID()] = string(ev.Instance.Raw); ev.Type == discovery.Removed {
				delete(present, ev.Instance.ID())
			}
			mu.Unlock()
		}
	})
	<-synced
	for range 2 { // readers at the same time
		group.Go(func() {
			for ctx.Err() == nil {
				if found := cache.List(q); !slices.IsSortedFunc(found, func(a, b discovery.Instance) int { return a.ID().Compare(b.ID()) }) {
					wrong.Add(1)
				}
				cache.ByInstance(7)
				_ = wait.Sleep(ctx, 20*time.Millisecond)
			}
		})
	}
	for i := range changes {
		switch e := endpoint(i); i % 3 {
		case 0:
			e.Device = discovery.DeviceCPU
			if err := regs[i].Update(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		case 1:
			if err := regs[i].Unregister(t.Context()); err != nil {
				t.Fatal(err)
			}
		default:
			registerAs(t, worker, uint64(entries+i), e)
		}
	}
	want := map[discovery.ID]string{}
	found, err := worker.List(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range found {
		want[in.ID()] = string(in.Raw)
	}
	waittest.Eventually(t, "the cache has all changes", func() bool {
		found := cache.List(q)
		if len(found) != len(want) {
			return false
		}
		got := map[discovery.ID]string{}
		for _, in := range found {
			got[in.ID()] = string(in.Raw)
		}
		return maps.Equal(got, want)
	})
	close(stalled)
	waittest.Eventually(t, "the stalled reader has all changes", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(present) == len(want) && maps.Equal(present, want)
	})
	cancel()
	group.Wait()
	if n := wrong.Load(); n != 0 {
		t.Errorf("%d events or lists are wrong", n)
	}
}
