//go:build linux || darwin

package file_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/waittest"
)

// The runtime's writers, by hand: whole in a temporary file, then a link or a
// rename, under the lock of the directory.

func runtimeTemp(t *testing.T, path, value string) string {
	t.Helper()
	dir := filepath.Dir(path)
	temp := filepath.Join(dir, fmt.Sprintf(".tmp_%016x", time.Now().UnixNano()))
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(temp, []byte(value), 0o666); err != nil {
		t.Fatal(err)
	}
	return temp
}

func runtimeInsert(t *testing.T, path, value string) {
	t.Helper()
	temp := runtimeTemp(t, path, value)
	defer flock(t, filepath.Dir(path))()
	if err := os.Link(temp, path); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(temp); err != nil {
		t.Fatal(err)
	}
}

func runtimeReplace(t *testing.T, path, value string) {
	t.Helper()
	temp := runtimeTemp(t, path, value)
	defer flock(t, filepath.Dir(path))()
	if err := os.Rename(temp, path); err != nil {
		t.Fatal(err)
	}
}

func touch(t *testing.T, path string, age time.Duration) {
	t.Helper()
	at := time.Now().Add(-age)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

func flock(t *testing.T, dir string) (unlock func()) {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { d.Close() }
}

func TestOtherWriterByTheRules(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	reader, log := client(t, root, 2*time.Second)
	w := watch(t, reader, discovery.KindEndpoint)
	w.expect(discovery.Synced, 0) // there is no directory yet
	path := endpointPath(root, 7)
	runtimeInsert(t, path, endpointJSON(7, "cpu"))
	w.expect(discovery.Added, 7)
	for range 3 {
		touch(t, path, 0) // a heartbeat is no event
	}
	runtimeReplace(t, path, endpointJSON(7, "cuda"))
	if in := w.expect(discovery.Added, 7); in.Spec.(discovery.Endpoint).Device != discovery.DeviceCUDA {
		t.Errorf("got %s", in.Raw)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.expect(discovery.Removed, 7)
	runtimeInsert(t, path, endpointJSON(7, "cuda"))
	w.expect(discovery.Added, 7)
	w.expect(discovery.Removed, 7) // nobody touches it
	waittest.Eventually(t, "the expired file removed", func() bool { return !exists(path) })
	if s := log.String(); s != "" {
		t.Errorf("warned:\n%s", s)
	}
}

// TestOtherWriterInPlace: half a file is no registration, and none that has
// gone; the whole one is.
func TestOtherWriterInPlace(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	reader, log := client(t, root, 0)
	w := watch(t, reader, discovery.KindEndpoint)
	w.expect(discovery.Synced, 0)
	runtimeInsert(t, endpointPath(root, 1), endpointJSON(1, "cpu"))
	w.expect(discovery.Added, 1)
	half := endpointJSON(2, "cpu")[:40]
	for _, id := range []uint64{1, 2} {
		if err := os.WriteFile(endpointPath(root, id), []byte(half), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	replaced := 0
	waittest.Eventually(t, "two warnings", func() bool {
		replaced++
		runtimeReplace(t, endpointPath(root, 3), endpointJSON(3, fmt.Sprint("d", replaced)))
		w.expect(discovery.Added, 3)
		return log.count("an invalid entry") >= 2
	})
	if n := reader.Stats().InvalidEntries; n != 2 {
		t.Errorf("%d bad entries, want 2:\n%v", n, log)
	}
	if err := os.WriteFile(endpointPath(root, 2), []byte(endpointJSON(2, "cpu")), 0o666); err != nil {
		t.Fatal(err)
	}
	w.expect(discovery.Added, 2)
	if err := os.WriteFile(endpointPath(root, 1), []byte(endpointJSON(1, "cuda")), 0o666); err != nil {
		t.Fatal(err)
	}
	w.expect(discovery.Added, 1)
}

func TestUnexpectedFilesAreSkipped(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, endpointsDir)
	runtimeInsert(t, endpointPath(root, 1), endpointJSON(1, "cpu"))
	for name, content := range map[string]string{
		".tmp_0123456789abcdef": endpointJSON(2, "cpu"),
		"README":                "hello",
		"ns%2Fcomp%2Fep%2":      endpointJSON(2, "cpu"),
		"ns%2Fcomp%2Fep%2F02":   endpointJSON(2, "cpu"),
		"ns%2Fcomp%2Fep%2F3":    endpointJSON(4, "cpu"),
		"ns%2F%FF%2Fep%2F4":     endpointJSON(4, "cpu"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	big, err := os.Create(endpointPath(root, 5))
	if err != nil {
		t.Fatal(err)
	}
	defer big.Close()
	if err := big.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(endpointPath(root, 6), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(endpointPath(root, 1), endpointPath(root, 8)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(endpointPath(root, 9), 0o666); err != nil {
		t.Fatal(err)
	}
	reader, log := client(t, root, 0)
	w := watch(t, reader, discovery.KindEndpoint)
	w.expect(discovery.Added, 1)
	w.expect(discovery.Synced, 0)
	// Looked at again and again, warned of once.
	for i := range uint64(3) {
		touch(t, filepath.Join(dir, "README"), 0)
		touch(t, endpointPath(root, 5), 0)
		runtimeInsert(t, endpointPath(root, 0x10+i), endpointJSON(0x10+i, "cpu"))
		w.expect(discovery.Added, 0x10+i)
	}
	if n := reader.Stats().InvalidEntries; n != 6 {
		t.Errorf("%d bad entries, want 6:\n%v", n, log)
	}
	if err := os.Remove(filepath.Join(dir, "README")); err != nil {
		t.Fatal(err)
	}
	if list, err := reader.List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint}); err != nil || len(list) != 4 {
		t.Errorf("listed %d, %v", len(list), err)
	}
}

// TestExpiredAreNotListed: those of owners that died while nobody was there.
func TestExpiredAreNotListed(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	stale, temp := endpointPath(root, 1), filepath.Join(root, endpointsDir, ".tmp_0123456789abcdef")
	runtimeInsert(t, stale, endpointJSON(1, "cpu"))
	if err := os.WriteFile(temp, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{stale, temp} {
		touch(t, path, 10*time.Minute)
	}
	reader, _ := client(t, root, time.Second)
	list, err := reader.List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint})
	if err != nil || len(list) != 0 {
		t.Errorf("listed %v, %v", list, err)
	}
	waittest.Eventually(t, "both removed", func() bool { return !exists(stale) && !exists(temp) })
}

// TestTwoGenerations: a file of each names the same channel, and it is there
// while one of them is.
func TestTwoGenerations(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	older := filepath.Join(root, channelsDir, "ns%2Fcomp%2Ft%2F2a")
	newer := filepath.Join(root, channelsDir, "namespace%2Fns%2Fcomponent%2Fcomp%2Ftopic%2Ft%2F2a")
	reader, _ := client(t, root, 0)
	w := watch(t, reader, discovery.KindEventChannel)
	w.expect(discovery.Synced, 0)
	value := `{"type":"EventChannel","namespace":"ns","component":"comp","topic":"t","instance_id":42,"transport":{"kind":"Zmq","config":{"endpoint":"tcp://127.0.0.1:1"}}}`
	runtimeInsert(t, older, value)
	w.expect(discovery.Added, 42)
	scoped := strings.Replace(value, `"namespace":"ns","component":"comp"`, `"scope":{"kind":"component","namespace":"ns","component":"comp"}`, 1)
	scoped = strings.Replace(scoped, ":1\"", ":2\"", 1)
	runtimeInsert(t, newer, scoped)
	if in := w.expect(discovery.Added, 42); string(in.Raw) != scoped {
		t.Errorf("got %s", in.Raw)
	}
	if err := os.Remove(newer); err != nil {
		t.Fatal(err)
	}
	if in := w.expect(discovery.Added, 42); string(in.Raw) != value {
		t.Errorf("got %s", in.Raw)
	}
	if err := os.Remove(older); err != nil {
		t.Fatal(err)
	}
	w.expect(discovery.Removed, 42)
}

// TestDirectoryReplaced: a root that was moved away and made again is a
// disturbance; owners have one TTL to come back.
func TestDirectoryReplaced(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	owner, _ := client(t, root, 3*time.Second)
	if _, err := owner.RegisterAs(t.Context(), 1, endpoint()); err != nil {
		t.Fatal(err)
	}
	reader, _ := client(t, root, 3*time.Second)
	w := watch(t, reader, discovery.KindEndpoint)
	w.expect(discovery.Added, 1)
	w.expect(discovery.Synced, 0)
	runtimeInsert(t, endpointPath(root, 2), endpointJSON(2, "cpu"))
	w.expect(discovery.Added, 2)
	if err := os.Rename(filepath.Join(root, "v1"), filepath.Join(root, "v0")); err != nil {
		t.Fatal(err)
	}
	w.expect(discovery.Removed, 2) // and not 1, which is registered again
	if !exists(endpointPath(root, 1)) {
		t.Error("1 is not registered again")
	}
}
