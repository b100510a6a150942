package dynamo

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// forStores runs a test for each version and each store of Dynamo's own.
func forStores(t *testing.T, test func(*testing.T, *place)) {
	t.Helper()
	for _, version := range []string{dynamotest.Gen2, dynamotest.Gen1} {
		for _, store := range []string{"file", "etcd"} {
			t.Run(version+"/"+store, func(t *testing.T) {
				t.Parallel()
				test(t, newPlace(t, version, store, "direct"))
			})
		}
	}
}

// watched starts a worker and returns it with a view that shows all of it.
func (p *place) watched(t *testing.T, store *discovery.Client) (*dynamotest.Peer, *view) {
	t.Helper()
	v := watchAll(t, store)
	worker := p.start(t, "worker.py")
	waittest.Eventually(t, "the worker is registered", func() bool {
		present, _ := v.counts()
		return present == p.registrations()
	})
	return worker, v
}

func gone(v *view) func() bool {
	return func() bool { present, _ := v.counts(); return present == 0 }
}

// ttl is how long registrations of the runtime outlive their owner.
func (p *place) ttl() time.Duration {
	if p.etcd != nil && p.version == dynamotest.Gen2 {
		return 30 * time.Second
	}
	return 10 * time.Second
}

// TestKilledWorker has the registrations of a worker expire.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	forStores(t, func(t *testing.T, p *place) {
		store, _ := p.openOurs(t)
		worker, v := p.watched(t, store)
		worker.Kill()
		killed := time.Now()
		waittest.Eventually(t, "the killed worker is removed", gone(v))
		t.Logf("removed after %v, TTL %v", time.Since(killed).Round(time.Millisecond), p.ttl())
	})
}

// TestTerminatedWorker has a worker unregister before it ends.
func TestTerminatedWorker(t *testing.T) {
	t.Parallel()
	forStores(t, func(t *testing.T, p *place) {
		store, _ := p.openOurs(t)
		worker, v := p.watched(t, store)
		worker.Signal(syscall.SIGTERM)
		worker.AwaitEnd()
		if left := raw(t, store); len(left) > 0 {
			t.Errorf("%d registrations after its end: %v", len(left), left)
		}
		waittest.Eventually(t, "the terminated worker is removed", gone(v))
	})
}

// files returns the number of registrations in the file store.
func (p *place) files(t *testing.T) (n int) {
	t.Helper()
	err := filepath.WalkDir(p.ours["DYN_FILE_KV"], func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasPrefix(d.Name(), ".") {
			n++
		}
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// pause is longer than the lease of a file, and shorter than that of etcd.
const pause = 15 * time.Second

// TestPausedWorker pauses a worker for less than its lease. It stays, and the
// events that a subscriber of ours loses, since it gave up the connection, are
// reported as missed.
func TestPausedWorker(t *testing.T) {
	t.Parallel()
	p := newPlace(t, dynamotest.Gen2, "etcd", "direct")
	store, plane := p.openOurs(t)
	worker, v := p.watched(t, store)
	s := p.startStream(t, plane, worker)
	worker.Signal(syscall.SIGSTOP)
	rest(t, pause)
	worker.Signal(syscall.SIGCONT)
	s.finish(t)
	if present, removed := v.counts(); present != p.registrations() || removed > 0 {
		t.Errorf("%d registrations, %d removed", present, removed)
	}
}

// TestPausedWorkerOnFile pauses a worker for longer than its files last. Watches
// and lists show it as removed and leave its files. Once it continues, they show
// what it has kept: a worker may remove its own expired files before it renews
// them, and does not write them again.
func TestPausedWorkerOnFile(t *testing.T) {
	t.Parallel()
	for _, version := range []string{dynamotest.Gen2, dynamotest.Gen1} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, version, "file", "direct")
			store, _ := p.openOurs(t)
			listed := func() (n int) {
				for _, kind := range kinds {
					n += len(list(t, store, discovery.Query{Kind: kind}))
				}
				return n
			}
			worker, v := p.watched(t, store)
			worker.Signal(syscall.SIGSTOP)
			rest(t, pause)
			waittest.Eventually(t, "the paused worker is removed", gone(v))
			if n := listed(); n > 0 {
				t.Errorf("%d registrations of the paused worker are listed", n)
			}
			if n := p.files(t); n != p.registrations() {
				t.Errorf("%d files of the paused worker are left, want %d", n, p.registrations())
			}
			worker.Signal(syscall.SIGCONT)
			waittest.Eventually(t, "the worker's files are shown", func() bool {
				present, _ := v.counts()
				return present == p.files(t) && present == listed()
			})
		})
	}
}
