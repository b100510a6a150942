//go:build linux || darwin

package file

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/waittest"
)

func TestClockMonitor(t *testing.T) {
	t.Parallel()
	const second = time.Second
	for name, c := range map[string]struct {
		passed, wall time.Duration // since the last observation, by the two clocks
		trusted      bool
	}{
		"in time":                  {second, second, true},
		"stopped":                  {7 * second, 7 * second, false},
		"suspended":                {second, 60 * second, false},
		"clock set back":           {second, -60 * second, false},
		"clock slewed for a while": {second, second + 400*time.Millisecond, true},
	} {
		m := clockMonitor{maxPause: 6 * second, distrust: 10 * second}
		start := time.Now()
		m.observeAt(start, start.Round(0))
		if !m.trusted(start) {
			t.Errorf("%s: not trusted at the start", name)
		}
		now := start.Add(c.passed)
		m.observeAt(now, start.Round(0).Add(c.wall))
		if m.trusted(now) != c.trusted {
			t.Errorf("%s: trusted is %v, want %v", name, !c.trusted, c.trusted)
		}
		if !m.trusted(now.Add(10 * second)) {
			t.Errorf("%s: never trusted again", name)
		}
	}
}

func FuzzKeys(f *testing.F) {
	for _, seed := range []string{"ns/comp/ep/2a", "ns%2Eone", "%", "%2", "%zz", "ünï", "\xff", ".tmp_0123456789abcdef", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if name, err := encodeKey(s); err == nil {
			if strings.Trim(name, "%0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
				t.Errorf("%q is written %q", s, name)
			}
			if back, err := decodeKey(name); err != nil || back != s {
				t.Errorf("%q is written %q and read %q, %v", s, name, back, err)
			}
		}
		w := watcher{dirs: []*directory{{kind: discovery.KindEventChannel, path: "."}}}
		if id, err := w.parse(s); err == nil {
			if _, err := discovery.DynamoKey(id, discovery.WireGen2); err != nil {
				t.Errorf("the name %q is read as %v: %v", s, id, err)
			}
		}
	})
}

// newStore returns a store for which a busy machine does not count as a
// fault, and whose files do not expire by themselves during a test.
func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := New(Options{Root: t.TempDir(), TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	s.clock.maxPause = time.Hour
	t.Cleanup(func() { _ = s.Shutdown(context.WithoutCancel(t.Context())) })
	return s
}

// openWatch returns a watch that is synced.
func openWatch(t *testing.T, s *Store) *watcher {
	t.Helper()
	dir, err := s.dir(discovery.KindEndpoint)
	if err == nil {
		err = os.MkdirAll(dir, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	watch, err := s.Watch(t.Context(), discovery.Query{Kind: discovery.KindEndpoint})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = watch.Close() })
	w := watch.(*watcher)
	expect(t, w, discovery.OpReset)
	expect(t, w, discovery.OpSynced)
	return w
}

// expect returns the next change other than OpProgress, which must have the given
// op.
func expect(t *testing.T, w *watcher, op discovery.Op) discovery.Change {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	for {
		ch, err := w.Next(ctx)
		if err != nil || ch.Op != op && ch.Op != discovery.OpProgress {
			t.Fatalf("got %+v, %v, want op %d", ch, err, op)
		}
		if ch.Op == op {
			return ch
		}
	}
}

var testID = discovery.ID{
	Kind:     discovery.KindEndpoint,
	Scope:    discovery.Scope{Namespace: "ns", Component: "comp", Endpoint: "ep"},
	Instance: 1,
}

// TestWithoutKernel removes the watch in the kernel, so that only scans find
// changes.
func TestWithoutKernel(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := openWatch(t, s)
	if err := w.events.Remove(w.dirs[0].path); err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{`{"a":1}`, `{"a":2}`} {
		if _, err := s.Register(t.Context(), testID, []byte(value), discovery.RegisterOptions{}); err != nil {
			t.Fatal(err)
		}
		if ch := expect(t, w, discovery.OpPut); string(ch.Value) != value || ch.ID != testID {
			t.Errorf("got %+v", ch)
		}
	}
	if err := s.leases[filepath.Join(w.dirs[0].path, "ns%2Fcomp%2Fep%2F1")].Unregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ch := expect(t, w, discovery.OpDelete); ch.Cause != discovery.CauseUnregistered {
		t.Errorf("got %+v", ch)
	}
}

// TestDroppedEventsOfTheKernel makes the kernel drop events. The watch must still report the
// present state.
func TestDroppedEventsOfTheKernel(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := openWatch(t, s)
	paths := []string{filepath.Join(w.dirs[0].path, ".tmp_0"), filepath.Join(w.dirs[0].path, ".tmp_1")}
	for _, path := range paths {
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 40_000 { // alternating, since the kernel merges equal consecutive events
		if err := os.Chtimes(paths[i%2], time.Time{}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Register(t.Context(), testID, []byte(`{}`), discovery.RegisterOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(t, w, discovery.OpPut)
}

// TestCausesOfRemovals: an expired file is reported as such whether or not it has been
// removed, unless ages prove nothing after a fault. Then it is left alone.
func TestCausesOfRemovals(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.clock.lastFault = time.Now().Add(time.Hour) // before the keep-alive starts, so that it sees nothing else
	w := openWatch(t, s)
	if err := s.start(w.dirs[0].path); err != nil { // as if it had registered something there
		t.Fatal(err)
	}
	keepAlive := keeper{store: s}
	file := testFile{t, w}
	gone := func(want discovery.Cause, how string) {
		t.Helper()
		if ch := expect(t, w, discovery.OpDelete); ch.Cause != want {
			t.Errorf("%s: the cause is %d, want %d", how, ch.Cause, want)
		}
	}

	file.write()
	file.setAge(2 * s.opt.TTL)
	gone(discovery.CauseUncertain, "expired after a fault")
	keepAlive.round(t.Context())
	file.setAge(0) // fails if the file is gone
	expect(t, w, discovery.OpPut)
	file.remove()
	gone(discovery.CauseUnregistered, "removed before it expired")

	s.clock.mu.Lock()
	s.clock.lastFault = time.Time{}
	s.clock.mu.Unlock()
	file.write()
	file.setAge(2 * s.opt.TTL)
	gone(discovery.CauseExpired, "expired")
	waittest.Eventually(t, "the expired file is removed", func() bool {
		keepAlive.round(t.Context())
		_, err := os.Stat(file.path())
		return errors.Is(err, fs.ErrNotExist)
	})

	file.write()
	file.remove()
	w.remove(file.path(), nil, time.Now().Add(2*s.opt.TTL))
	gone(discovery.CauseExpired, "removed after it expired")
}

// testFile is a file that another process keeps in the directory of a watch.
type testFile struct {
	t *testing.T
	w *watcher
}

func (f testFile) path() string { return filepath.Join(f.w.dirs[0].path, "ns%2Fcomp%2Fep%2F1") }

// write writes the file as Dynamo does: under the lock, so that no keep-alive
// removes it at this moment, and at once.
func (f testFile) write() {
	f.t.Helper()
	var unlock func()
	waittest.Eventually(f.t, "the directory is unlocked", func() bool {
		var err error
		unlock, err = lock(f.t.Context(), f.w.dirs[0].path, exclusive)
		return err == nil
	})
	temp := filepath.Join(f.w.dirs[0].path, tempPrefix+"0")
	err := os.WriteFile(temp, []byte(`{}`), 0o666)
	err = errors.Join(err, os.Rename(temp, f.path()))
	unlock()
	if err != nil {
		f.t.Fatal(err)
	}
	expect(f.t, f.w, discovery.OpPut)
}

func (f testFile) setAge(age time.Duration) {
	f.t.Helper()
	if err := os.Chtimes(f.path(), time.Time{}, time.Now().Add(-age)); err != nil {
		f.t.Fatal(err)
	}
}

func (f testFile) remove() {
	f.t.Helper()
	if err := os.Remove(f.path()); err != nil {
		f.t.Fatal(err)
	}
}

// TestReadersRemoveNoFiles: a worker of Dynamo that was paused only touches its
// file when it continues. Its file must be there then, and it is present again.
func TestReadersRemoveNoFiles(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	w := openWatch(t, s)
	keepAlive := keeper{store: s}
	file := testFile{t, w}
	file.write()
	file.setAge(2 * s.opt.TTL)
	if ch := expect(t, w, discovery.OpDelete); ch.Cause != discovery.CauseExpired {
		t.Errorf("the cause is %d, want %d", ch.Cause, discovery.CauseExpired)
	}
	keepAlive.round(t.Context())
	file.setAge(0) // fails if the file was removed
	expect(t, w, discovery.OpPut)

	if err := s.start(w.dirs[0].path); err != nil { // as if it had registered something there
		t.Fatal(err)
	}
	file.setAge(2 * s.opt.TTL)
	expect(t, w, discovery.OpDelete)
	keepAlive.round(t.Context())
	if _, err := os.Stat(file.path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want the file removed", err)
	}
}
