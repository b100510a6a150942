package etcd

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/etcd"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// registerMany registers endpoints under the ids from zero, many at once.
func registerMany(tb testing.TB, s *etcd.Store, n int) {
	tb.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64)
	for id := range uint64(n) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if _, err := s.Register(tb.Context(), worker.ID(id), valueOf(tb, id, ""), discovery.RegisterOptions{}); err != nil {
				tb.Errorf("register %d: %v", id, err)
			}
		})
	}
	wg.Wait()
}

// TestRecoveryOfManyAcrossALongDistance loses all data of the server. The one owner
// of thousands of entries, with a round trip of 50 ms, writes them again before
// any watch reports one as Removed.
func TestRecoveryOfManyAcrossALongDistance(t *testing.T) {
	t.Parallel()
	const entries = 5000
	s := runServer(t)
	log := &logtest.Buffer{}
	owner := openStore(t, etcd.Options{Endpoints: []string{slowURL(t, s, 25*time.Millisecond)}, TTL: 10 * time.Second, Logger: log.Logger()})
	registerMany(t, owner, entries)
	w := startWatch(t, newClient(t, s.url(), nil), endpoints)
	s.kill()
	s.wipe()
	s.start()
	began := time.Now()
	raw := s.raw()
	waittest.Eventually(t, "all are registered again", func() bool { return countEntries(t, raw) == entries })
	t.Logf("%d entries were written again within %v", entries, time.Since(began))
	waittest.Eventually(t, "one warning", func() bool { return log.Count(registeredAgain) == 1 })
	rest(t, hold/2)
	for id := range uint64(entries) {
		if w.count(fmt.Sprint("-", id)) > 0 {
			t.Fatalf("%d was reported as Removed", id)
		}
	}
}

// TestWatchOfASlowStore has a round trip of 1.8 s. Neither the listing, of several
// pages, nor the watch begins again, and the watch reports changes.
func TestWatchOfASlowStore(t *testing.T) {
	t.Parallel()
	const entries = 600
	s := runServer(t)
	owner := openStore(t, etcd.Options{Endpoints: []string{s.url()}, TTL: 10 * time.Second})
	registerMany(t, owner, entries)
	store := openStore(t, etcd.Options{Endpoints: []string{slowURL(t, s, 900*time.Millisecond)}})
	w, err := store.Watch(t.Context(), endpoints)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 3*waittest.Patience)
	defer cancel()
	counts := map[discovery.Op]int{}
	until := func(op discovery.Op, n int) {
		t.Helper()
		for counts[op] < n {
			ch, err := w.Next(ctx)
			if err != nil {
				t.Fatalf("%v, after %v", err, counts)
			}
			counts[ch.Op]++
		}
	}
	until(discovery.OpSynced, 1)
	if counts[discovery.OpPut] != entries || counts[discovery.OpReset] != 1 {
		t.Errorf("%v, want one listing of %d entries", counts, entries)
	}
	until(discovery.OpProgress, 2)
	leaseOf(t, owner, entries, "new")
	until(discovery.OpPut, entries+1)
	if counts[discovery.OpReset] != 1 {
		t.Errorf("the watch has listed %d times, want once", counts[discovery.OpReset])
	}
}

// TestManyWatchersAtOnce begins many watches of many entries at once: all are
// synced after one listing.
func TestManyWatchersAtOnce(t *testing.T) {
	t.Parallel()
	const watchers, entries = 50, 3000
	s := runServer(t)
	registerMany(t, openStore(t, etcd.Options{Endpoints: []string{s.url()}, TTL: 20 * time.Second}), entries)
	reader := openStore(t, etcd.Options{Endpoints: []string{s.url()}})
	ctx, cancel := context.WithTimeout(t.Context(), 2*waittest.Patience)
	defer cancel()
	var wg sync.WaitGroup
	for range watchers {
		wg.Go(func() {
			w, err := reader.Watch(ctx, endpoints)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = w.Close() }()
			counts := map[discovery.Op]int{}
			for counts[discovery.OpProgress] < 2 {
				ch, err := w.Next(ctx)
				if err != nil {
					t.Errorf("%v, after %v", err, counts)
					return
				}
				counts[ch.Op]++
			}
			if counts[discovery.OpReset] != 1 || counts[discovery.OpPut] != entries {
				t.Errorf("%v, want one listing of %d entries", counts, entries)
			}
		})
	}
	wg.Wait()
}
