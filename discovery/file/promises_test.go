//go:build linux || darwin

package file_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/file"
	"github.com/dynplane/dynplane/internal/waittest"
)

func openStore(t *testing.T, root string, ttl time.Duration) *file.Store {
	t.Helper()
	s := open(t, root, ttl, nil)
	t.Cleanup(func() { _ = s.Shutdown(context.WithoutCancel(t.Context())) })
	return s
}

func leaseOf(t *testing.T, s *file.Store, id uint64, device string) discovery.Lease {
	t.Helper()
	l, err := s.Register(t.Context(), endpoint().ID(id), []byte(endpointJSON(id, device)), discovery.RegisterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func expectValue(t *testing.T, s *file.Store, id uint64, device string) {
	t.Helper()
	if got, err := s.Get(t.Context(), endpoint().ID(id)); err != nil || string(got) != endpointJSON(id, device) {
		t.Errorf("entry %d is %s, %v; want %s", id, got, err, device)
	}
}

func hasEnded(l discovery.Lease) bool { return l.(interface{ Ended() bool }).Ended() }

func TestUpdateIsInPlace(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	store, other := openStore(t, root, time.Hour), openStore(t, root, time.Hour)
	l := leaseOf(t, store, 1, "a")
	reader, _ := client(t, root, time.Hour)
	w := watch(t, reader, discovery.KindEndpoint)
	w.expect(discovery.Added, 1)
	w.expect(discovery.Synced, 0)
	for i := range 20 {
		if err := l.Update(t.Context(), []byte(endpointJSON(1, fmt.Sprint(i)))); err != nil {
			t.Fatal(err)
		}
		w.expect(discovery.Added, 1) // and not Removed
	}
	expectValue(t, other, 1, "19")
	if err := os.Remove(endpointPath(root, 1)); err != nil {
		t.Fatal(err)
	}
	if err := l.Update(t.Context(), []byte(endpointJSON(1, "lost"))); err != nil {
		t.Errorf("update of a file that was lost: %v", err)
	}
	expectValue(t, other, 1, "lost")

	leaseOf(t, other, 1, "theirs")
	if err := l.Update(t.Context(), []byte(endpointJSON(1, "ours"))); !errors.Is(err, discovery.ErrTakenOver) {
		t.Errorf("update of the file of another owner: %v, want ErrTakenOver", err)
	}
	if err := l.Wait(t.Context()); !errors.Is(err, discovery.ErrTakenOver) {
		t.Errorf("the lease ended with %v, want ErrTakenOver", err)
	}
	expectValue(t, store, 1, "theirs")

	ended := leaseOf(t, store, 2, "a")
	if err := ended.Unregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ended.Update(t.Context(), []byte(endpointJSON(2, "b"))); !errors.Is(err, discovery.ErrClosed) || exists(endpointPath(root, 2)) {
		t.Errorf("update of a lease that has ended: %v, want ErrClosed", err)
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	store := openStore(t, root, time.Minute)
	channel := discovery.EventChannel{Scope: discovery.Scope{Namespace: "ns", Component: "comp"}, Topic: "t"}.ID(42)
	expect := func(want string) {
		t.Helper()
		got, err := store.Get(t.Context(), channel)
		if want == "" && !errors.Is(err, discovery.ErrNotFound) || want != "" && (err != nil || string(got) != want) {
			t.Errorf("got %s, %v, want %q", got, err, want)
		}
	}
	expect("")
	older, newer := filepath.Join(root, channelsDir, "ns%2Fcomp%2Ft%2F2a"), filepath.Join(root, channelsDir, "namespace%2Fns%2Fcomponent%2Fcomp%2Ftopic%2Ft%2F2a")
	dynamoInsert(t, older, "[]")
	expect("[]")
	if _, err := store.Register(t.Context(), channel, []byte("{}"), discovery.RegisterOptions{IfAbsent: true}); !errors.Is(err, discovery.ErrExists) {
		t.Errorf("register, if absent in either generation: %v, want ErrExists", err)
	}
	dynamoInsert(t, newer, "{}")
	expect("{}")
	touch(t, newer, time.Hour) // it expires
	expect("[]")
	touch(t, older, time.Hour)
	expect("")
	if _, err := store.Register(t.Context(), channel, []byte("{}"), discovery.RegisterOptions{IfAbsent: true}); err != nil {
		t.Errorf("register in the place of an expired file: %v", err)
	}
	if err := store.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Get(t.Context(), channel); !errors.Is(err, discovery.ErrClosed) {
		t.Errorf("get after shutdown: %v, want ErrClosed", err)
	}
}

// TestIfAbsent has many stores register an id at once: one of them wins.
func TestIfAbsent(t *testing.T) {
	t.Parallel()
	const stores, ids = 8, 30
	root := t.TempDir()
	winners := make([][]discovery.Lease, ids)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for n := range stores {
		store := openStore(t, root, time.Hour)
		for id := range uint64(ids) {
			wg.Go(func() {
				l, err := store.Register(t.Context(), endpoint().ID(id), []byte(endpointJSON(id, fmt.Sprint(n))), discovery.RegisterOptions{IfAbsent: true})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					winners[id] = append(winners[id], l)
				} else if !errors.Is(err, discovery.ErrExists) {
					t.Errorf("register %d: %v, want ErrExists", id, err)
				}
			})
		}
	}
	wg.Wait()
	for id, leases := range winners {
		if len(leases) != 1 || hasEnded(leases[0]) {
			t.Errorf("%d winners of %d, want one that lives", len(leases), id)
		}
	}
}

// TestLastOfSeveralRegistrationsWins has one store register one id several times at
// once, again and again, during heartbeats.
func TestLastOfSeveralRegistrationsWins(t *testing.T) {
	t.Parallel()
	const rounds, atOnce = 200, 4
	root := t.TempDir()
	store := openStore(t, root, time.Second)
	for id := range uint64(rounds) {
		leases := make([]discovery.Lease, atOnce)
		var wg sync.WaitGroup
		for n := range atOnce {
			wg.Go(func() { leases[n] = leaseOf(t, store, id, fmt.Sprint(n)) })
		}
		wg.Wait()
		winner := slices.IndexFunc(leases, func(l discovery.Lease) bool { return !hasEnded(l) })
		if winner < 0 {
			t.Fatalf("no living lease of %d", id)
		}
		for n, l := range leases {
			if n == winner {
				continue
			}
			if !hasEnded(l) {
				t.Fatalf("two living leases of %d", id)
			}
			if err := l.Wait(t.Context()); !errors.Is(err, discovery.ErrTakenOver) {
				t.Errorf("a former lease ended with %v, want ErrTakenOver", err)
			}
			if err := l.Unregister(t.Context()); err != nil { // which does not remove the winner's
				t.Error(err)
			}
		}
		expectValue(t, store, id, fmt.Sprint(winner))
	}
}

// TestCanceledRegistersLeaveNothing cancels takeovers and first registrations at
// random moments, while the directory is locked now and then.
func TestCanceledRegistersLeaveNothing(t *testing.T) {
	t.Parallel()
	const attempts = 600
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	root := t.TempDir()
	owner, taker := openStore(t, root, time.Hour), openStore(t, root, time.Hour)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	var mu sync.Mutex
	failed, succeeded := 0, 0
	for id := range uint64(attempts) {
		after, owned, locked := time.Duration(random.Int64N(int64(5*time.Millisecond))), id%2 == 0, id%50 == 10
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			var former discovery.Lease
			if owned {
				former = leaseOf(t, owner, id, "former")
			}
			if locked {
				unlock := flock(t, filepath.Join(root, endpointsDir))
				time.AfterFunc(20*time.Millisecond, unlock)
			}
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			_, err := taker.Register(ctx, endpoint().ID(id), []byte(endpointJSON(id, "new")), discovery.RegisterOptions{})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				succeeded++
				expectValue(t, owner, id, "new")
				return
			}
			failed++
			switch _, gerr := owner.Get(t.Context(), endpoint().ID(id)); {
			case owned:
				expectValue(t, owner, id, "former")
				if hasEnded(former) {
					t.Errorf("a canceled Register (%v) ended the former owner's lease", err)
				}
			case !errors.Is(gerr, discovery.ErrNotFound):
				t.Errorf("a canceled Register (%v) left an entry", err)
			}
		})
	}
	wg.Wait()
	if failed == 0 || succeeded == 0 {
		t.Errorf("%d attempts failed and %d succeeded, want some of both", failed, succeeded)
	}
	entries, err := os.ReadDir(filepath.Join(root, endpointsDir))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".tmp_") {
			t.Errorf("%s is left", e.Name())
		}
	}
}

// TestShutdownContinues: after a failure it does not return nil before the files
// are removed, and a second one at the same time waits for that.
func TestShutdownContinues(t *testing.T) {
	t.Parallel()
	const files = 300
	root := t.TempDir()
	store := openStore(t, root, time.Hour)
	var first discovery.Lease
	for id := range uint64(files) {
		first = leaseOf(t, store, id, "a")
	}
	unlock := flock(t, filepath.Join(root, endpointsDir))
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := store.Shutdown(ctx); !errors.Is(err, file.ErrLocked) {
			t.Errorf("shutdown: %v, want ErrLocked", err)
		}
		cancel()
	}
	unlock()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := first.Unregister(t.Context()); err != nil {
			t.Errorf("unregister: %v", err)
		}
	})
	for range 2 {
		wg.Go(func() {
			if err := store.Shutdown(t.Context()); err != nil {
				t.Errorf("shutdown: %v", err)
			} else if left, err := os.ReadDir(filepath.Join(root, endpointsDir)); err != nil || len(left) > 0 {
				t.Errorf("shutdown has returned nil, and there are %d files, %v", len(left), err)
			}
		})
	}
	wg.Wait()
}

// TestShutdownEndsCalls: they wait for a locked directory.
func TestShutdownEndsCalls(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	store := openStore(t, root, time.Hour)
	if err := leaseOf(t, store, 1, "a").Unregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	w, err := store.Watch(t.Context(), discovery.Query{Kind: discovery.KindEndpoint})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	defer flock(t, filepath.Join(root, endpointsDir))()
	errs := make(chan error, 2)
	go func() {
		_, err := store.Register(t.Context(), endpoint().ID(2), []byte("{}"), discovery.RegisterOptions{})
		errs <- err
	}()
	go func() {
		_, err := w.Next(t.Context())
		errs <- err
	}()
	waittest.Eventually(t, "the registration waits for the lock", func() bool {
		temp, _ := filepath.Glob(filepath.Join(root, endpointsDir, ".tmp_*"))
		return len(temp) == 1
	})
	if err := store.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown without files: %v", err)
	}
	for range 2 {
		if err := <-errs; !errors.Is(err, discovery.ErrClosed) {
			t.Errorf("a call ended with %v, want ErrClosed", err)
		}
	}
}
