package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/etcd"
	"github.com/dynplane/dynplane/internal/waittest"
)

// openStore opens a store with a TTL of 2 s unless o has another one.
func openStore(tb testing.TB, o etcd.Options) *etcd.Store {
	tb.Helper()
	if o.TTL == 0 {
		o.TTL = 2 * time.Second
	}
	s := open(tb, o)
	tb.Cleanup(func() { _ = s.Shutdown(context.Background()) }) // its server may be gone
	return s
}

// valueOf returns a value of worker that differs by device.
func valueOf(tb testing.TB, id uint64, device string) []byte {
	tb.Helper()
	e := worker
	e.Device = device
	value, err := discovery.Instance{InstanceID: id, Spec: e}.MarshalJSON()
	if err != nil {
		tb.Fatal(err)
	}
	return value
}

func leaseOf(tb testing.TB, s *etcd.Store, id uint64, device string) discovery.Lease {
	tb.Helper()
	l, err := s.Register(tb.Context(), worker.ID(id), valueOf(tb, id, device), discovery.RegisterOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func expectValue(t *testing.T, s *etcd.Store, id uint64, device string) {
	t.Helper()
	if got, err := s.Get(t.Context(), worker.ID(id)); err != nil || string(got) != string(valueOf(t, id, device)) {
		t.Errorf("entry %d is %s, %v; want %s", id, got, err, device)
	}
}

func TestUpdateIsInPlace(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	store, other, raw := openStore(t, etcd.Options{Endpoints: []string{s.url()}}), openStore(t, etcd.Options{Endpoints: []string{s.url()}}), s.raw()
	l := leaseOf(t, store, 1, "a")
	before, err := raw.Get(t.Context(), keyOf(1))
	if err != nil {
		t.Fatal(err)
	}
	w := startWatch(t, newClient(t, s.url(), nil), endpoints)
	for i := range 20 {
		if err := l.Update(t.Context(), valueOf(t, 1, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	expectValue(t, other, 1, "19")
	after, err := raw.Get(t.Context(), keyOf(1))
	if err != nil || after.Kvs[0].CreateRevision != before.Kvs[0].CreateRevision || after.Kvs[0].Lease != before.Kvs[0].Lease {
		t.Errorf("%+v, %v; want the entry of %+v with another value", after, err, before)
	}
	waittest.Eventually(t, "all values are watched", func() bool { return w.count("+1") == 21 })
	if w.count("-1") != 0 {
		t.Error("a removal is visible")
	}

	leaseOf(t, other, 1, "theirs")
	if err := l.Update(t.Context(), valueOf(t, 1, "ours")); !errors.Is(err, discovery.ErrTakenOver) {
		t.Errorf("update of an entry of another owner: %v, want ErrTakenOver", err)
	}
	if err := l.Wait(t.Context()); !errors.Is(err, discovery.ErrTakenOver) {
		t.Errorf("the lease ended with %v, want ErrTakenOver", err)
	}
	expectValue(t, store, 1, "theirs")

	ended := leaseOf(t, store, 2, "a")
	if err := ended.Unregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ended.Update(t.Context(), valueOf(t, 2, "b")); !errors.Is(err, discovery.ErrClosed) {
		t.Errorf("update of a lease that has ended: %v, want ErrClosed", err)
	}
}

// TestUpdateOfALostEntry: the entry was removed, or overwritten without a lease.
func TestUpdateOfALostEntry(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	store, raw := openStore(t, etcd.Options{Endpoints: []string{s.url()}, TTL: time.Hour}), s.raw()
	for name, lose := range map[string]func() error{
		"removed":     func() error { _, err := raw.Delete(t.Context(), keyOf(1)); return err },
		"overwritten": func() error { _, err := raw.Put(t.Context(), keyOf(1), "x"); return err },
		"lease revoked": func() error {
			resp, err := raw.Get(t.Context(), keyOf(1))
			if err == nil {
				_, err = raw.Revoke(t.Context(), clientv3.LeaseID(resp.Kvs[0].Lease))
			}
			return err
		},
	} {
		l := leaseOf(t, store, 1, "a")
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		if err := l.Update(t.Context(), valueOf(t, 1, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		expectValue(t, store, 1, name)
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	channel := discovery.EventChannel{Scope: discovery.Scope{Namespace: "ns", Component: "c"}, Topic: "t"}.ID(42)
	gen1 := openStore(t, etcd.Options{Endpoints: []string{s.url()}, Wire: discovery.WireGen1})
	gen2 := openStore(t, etcd.Options{Endpoints: []string{s.url()}})
	for _, store := range []*etcd.Store{gen1, gen2} {
		if _, err := store.Get(t.Context(), channel); !errors.Is(err, discovery.ErrNotFound) {
			t.Errorf("get: %v, want ErrNotFound", err)
		}
	}
	l, err := gen1.Register(t.Context(), channel, []byte("{}"), discovery.RegisterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, store := range []*etcd.Store{gen1, gen2} {
		if got, err := store.Get(t.Context(), channel); err != nil || string(got) != "{}" {
			t.Errorf("get: %s, %v", got, err)
		}
	}
	if _, err := gen2.Register(t.Context(), channel, []byte("[]"), discovery.RegisterOptions{IfAbsent: true}); !errors.Is(err, discovery.ErrExists) {
		t.Errorf("register, if absent in either generation: %v, want ErrExists", err)
	}
	if err := l.Unregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := gen2.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := gen2.Get(t.Context(), channel); !errors.Is(err, discovery.ErrClosed) {
		t.Errorf("get after shutdown: %v, want ErrClosed", err)
	}
}

// TestIfAbsent has many clients register an id at once: one of them wins.
func TestIfAbsent(t *testing.T) {
	t.Parallel()
	const stores, ids = 8, 30
	s := runServer(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	winners := map[uint64]int{}
	for n := range stores {
		store := openStore(t, etcd.Options{Endpoints: []string{s.url()}})
		for id := range uint64(ids) {
			wg.Go(func() {
				l, err := store.Register(t.Context(), worker.ID(id), valueOf(t, id, fmt.Sprint(n)), discovery.RegisterOptions{IfAbsent: true})
				if err != nil && !errors.Is(err, discovery.ErrExists) {
					t.Errorf("register %d: %v, want ErrExists", id, err)
				}
				if err == nil {
					mu.Lock()
					defer mu.Unlock()
					winners[id]++
					if l.(interface{ Ended() bool }).Ended() {
						t.Errorf("the winner of %d was taken over", id)
					}
				}
			})
		}
	}
	wg.Wait()
	for id := range uint64(ids) {
		if winners[id] != 1 {
			t.Errorf("%d winners of %d, want 1", winners[id], id)
		}
	}
}

// TestLastOfSeveralRegistrationsWins has one client register one id several times
// at once, again and again.
func TestLastOfSeveralRegistrationsWins(t *testing.T) {
	t.Parallel()
	const rounds, atOnce = 60, 4
	s := runServer(t)
	store := openStore(t, etcd.Options{Endpoints: []string{s.url()}})
	for id := range uint64(rounds) {
		leases := make([]discovery.Lease, atOnce)
		var wg sync.WaitGroup
		for n := range atOnce {
			wg.Go(func() { leases[n] = leaseOf(t, store, id, fmt.Sprint(n)) })
		}
		wg.Wait()
		living := slices.DeleteFunc(slices.Clone(leases), func(l discovery.Lease) bool { return l.(interface{ Ended() bool }).Ended() })
		if len(living) != 1 {
			t.Fatalf("%d living leases of %d, want 1", len(living), id)
		}
		expectValue(t, store, id, fmt.Sprint(slices.Index(leases, living[0])))
		for _, l := range leases {
			if l == living[0] {
				continue
			}
			if err := l.Wait(t.Context()); !errors.Is(err, discovery.ErrTakenOver) {
				t.Errorf("a former lease ended with %v, want ErrTakenOver", err)
			}
			if err := l.Unregister(t.Context()); err != nil { // which does not remove the winner's
				t.Error(err)
			}
		}
		expectValue(t, store, id, fmt.Sprint(slices.Index(leases, living[0])))
	}
}

// awaitHealth waits for a state by means of the channel, as an owner would.
func awaitHealth(t *testing.T, l discovery.Lease, healthy bool) discovery.Health {
	t.Helper()
	deadline := time.After(waittest.Patience)
	for {
		h, changed := l.Health()
		if h.Healthy == healthy {
			return h
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("health %+v, want healthy: %v", h, healthy)
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	p := newProxy(t, s.config.Listen)
	store := openStore(t, etcd.Options{Endpoints: []string{p.url()}})
	l := leaseOf(t, store, 1, "a")
	first := awaitHealth(t, l, true)
	waittest.Eventually(t, "a heartbeat", func() bool {
		h, _ := l.Health()
		return h.LastBeat.After(first.LastBeat)
	})
	p.disconnect()
	if h := awaitHealth(t, l, false); h.Err == nil || time.Since(h.LastBeat) < 2*time.Second {
		t.Errorf("lost with %v, %v after the last heartbeat, want an error after 2s", h.Err, time.Since(h.LastBeat))
	}
	p.reconnect()
	awaitHealth(t, l, true)
	expectValue(t, store, 1, "a")
}

// TestRevokedPermissionEndsLeases: the owner learns it from Wait, with the reason.
func TestRevokedPermissionEndsLeases(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	raw, ctx := s.raw(), t.Context()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(raw.UserAdd(ctx, "root", "secret"))
	must(raw.UserGrantRole(ctx, "root", "root"))
	for _, name := range []string{"kept", "removed"} {
		must(raw.RoleAdd(ctx, name))
		must(raw.RoleGrantPermission(ctx, name, "v1/", clientv3.GetPrefixRangeEnd("v1/"), clientv3.PermissionType(clientv3.PermReadWrite)))
		must(raw.UserAdd(ctx, name, "pass"))
		must(raw.UserGrantRole(ctx, name, name))
	}
	must(raw.AuthEnable(ctx))
	root, err := clientv3.New(clientv3.Config{Endpoints: []string{s.url()}, Username: "root", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	for i, name := range []string{"kept", "removed"} {
		store := openStore(t, etcd.Options{Endpoints: []string{s.url()}, Username: name, Password: "pass"})
		l := leaseOf(t, store, uint64(i), "a")
		awaitHealth(t, l, true)
		if name == "kept" {
			must(root.RoleRevokePermission(ctx, name, "v1/", clientv3.GetPrefixRangeEnd("v1/")))
		} else {
			must(root.UserDelete(ctx, name))
		}
		wait, cancel := context.WithTimeout(ctx, waittest.Patience)
		err := l.Wait(wait)
		cancel()
		if !errors.Is(err, rpctypes.ErrPermissionDenied) && !errors.Is(err, rpctypes.ErrAuthFailed) &&
			!errors.Is(err, rpctypes.ErrUserNotFound) && !errors.Is(err, rpctypes.ErrInvalidAuthToken) {
			t.Errorf("%s: the lease ended with %v, want the refusal", name, err)
		}
	}
}
