//go:build linux || darwin

package file_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestRecoveryOfManyFiles removes thousands of files. Their owner writes them again
// before any watch reports one as Removed.
func TestRecoveryOfManyFiles(t *testing.T) {
	t.Parallel()
	const files = 5000
	root := t.TempDir()
	owner := openStore(t, root, 15*time.Second)
	for id := range uint64(files) {
		leaseOf(t, owner, id, "a")
	}
	reader, _ := client(t, root, 15*time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	synced, ended, removed := make(chan struct{}), make(chan struct{}), 0
	go func() {
		defer close(ended)
		for ev, err := range reader.Watch(ctx, discovery.Query{Kind: discovery.KindEndpoint}) {
			switch {
			case err != nil:
				return
			case ev.Type == discovery.Synced:
				close(synced)
			case ev.Type == discovery.Removed:
				removed++
			}
		}
	}()
	<-synced
	if err := os.Rename(filepath.Join(root, "v1"), filepath.Join(root, "v0")); err != nil {
		t.Fatal(err)
	}
	waittest.Eventually(t, "all files are back", func() bool {
		entries, _ := os.ReadDir(filepath.Join(root, endpointsDir))
		return len(entries) == files
	})
	w := watch(t, reader, discovery.KindEndpoint)
	w.expectAll(discovery.Added, files)
	cancel()
	if <-ended; removed > 0 {
		t.Errorf("%d files were reported as Removed", removed)
	}
}

// TestManyListsAtOnce lists a directory of thousands of files many times at once,
// while a writer needs its lock, too.
func TestManyListsAtOnce(t *testing.T) {
	t.Parallel()
	const lists, files = 50, 2000
	root := t.TempDir()
	owner := openStore(t, root, time.Hour)
	for id := range uint64(files) {
		leaseOf(t, owner, id, "a")
	}
	var wg sync.WaitGroup
	for range lists {
		reader, _ := client(t, root, time.Hour)
		wg.Go(func() {
			if list, err := reader.List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint}); err != nil || len(list) < files {
				t.Errorf("listed %d, %v; want %d", len(list), err, files)
			}
		})
	}
	for id := range uint64(100) {
		leaseOf(t, owner, files+id, "a")
	}
	wg.Wait()
}

// TestWatchOfAllKinds has directories appear, change and vanish.
func TestWatchOfAllKinds(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	owner, _ := client(t, root, 2*time.Second)
	reader, _ := client(t, root, 2*time.Second)
	if _, err := owner.RegisterAs(t.Context(), 1, endpoint()); err != nil {
		t.Fatal(err)
	}
	w := watch(t, reader, discovery.KindAny)
	w.expect(discovery.Added, 1)
	w.expect(discovery.Synced, 0)
	channel := discovery.EventChannel{Scope: endpoint().Scope, Topic: "t", Transport: discovery.ZMQ{Endpoint: "tcp://127.0.0.1:1"}}
	reg, err := owner.RegisterAs(t.Context(), 2, channel)
	if err != nil {
		t.Fatal(err)
	}
	if in := w.expect(discovery.Added, 2); in.ID().Kind != discovery.KindEventChannel {
		t.Errorf("%v", in.ID())
	}
	if err := os.RemoveAll(filepath.Join(root, channelsDir)); err != nil { // it is written again
		t.Fatal(err)
	}
	waittest.Eventually(t, "the channel is back", func() bool {
		entries, _ := os.ReadDir(filepath.Join(root, channelsDir))
		return len(entries) == 1
	})
	if _, err := owner.RegisterAs(t.Context(), 3, endpoint()); err != nil {
		t.Fatal(err)
	}
	w.expect(discovery.Added, 3) // and not Removed
	if err := reg.Unregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.expect(discovery.Removed, 2)
}
