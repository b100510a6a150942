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

// The functions below write as Dynamo does: the content into a temporary file,
// then a link or a rename while the directory is locked.

func dynamoTemp(t *testing.T, path, value string) string {
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

func dynamoInsert(t *testing.T, path, value string) {
	t.Helper()
	temp := dynamoTemp(t, path, value)
	defer flock(t, filepath.Dir(path))()
	if err := os.Link(temp, path); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(temp); err != nil {
		t.Fatal(err)
	}
}

func dynamoReplace(t *testing.T, path, value string) {
	t.Helper()
	temp := dynamoTemp(t, path, value)
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
	reader, log := client(t, root, time.Hour)
	w := watch(t, reader, discovery.KindEndpoint)
	w.expect(discovery.Synced, 0) // the directory does not exist yet
	path := endpointPath(root, 7)
	dynamoInsert(t, path, endpointJSON(7, "cpu"))
	w.expect(discovery.Added, 7)
	for range 3 {
		touch(t, path, 0) // a heartbeat is no event
	}
	dynamoReplace(t, path, endpointJSON(7, "cuda"))
	if in := w.expect(discovery.Added, 7); in.Spec.(discovery.Endpoint).Device != discovery.DeviceCUDA {
		t.Errorf("got %s", in.Raw)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.expect(discovery.Removed, 7)
	dynamoInsert(t, path, endpointJSON(7, "cuda"))
	w.expect(discovery.Added, 7)
	touch(t, path, 2*time.Hour) // it expires
	w.expect(discovery.Removed, 7)
	if _, err := reader.RegisterAs(t.Context(), 8, endpoint()); err != nil {
		t.Fatal(err)
	}
	waittest.Eventually(t, "the expired file is removed by a process that registers", func() bool { return !exists(path) })
	if s := log.String(); s != "" {
		t.Errorf("warned:\n%s", s)
	}
}

// TestOtherWriterInPlace writes files in two steps. A half-written file neither
// adds nor removes a registration; the complete file adds one.
func TestOtherWriterInPlace(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	reader, log := client(t, root, time.Hour)
	w := watch(t, reader, discovery.KindEndpoint)
	w.expect(discovery.Synced, 0)
	dynamoInsert(t, endpointPath(root, 1), endpointJSON(1, "cpu"))
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
		dynamoReplace(t, endpointPath(root, 3), endpointJSON(3, fmt.Sprint("d", replaced)))
		w.expect(discovery.Added, 3)
		return log.Count("an invalid entry") >= 2
	})
	if n := reader.Stats().InvalidEntries; n != 2 {
		t.Errorf("%d invalid entries, want 2:\n%v", n, log)
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
	dynamoInsert(t, endpointPath(root, 1), endpointJSON(1, "cpu"))
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
	reader, log := client(t, root, time.Hour)
	w := watch(t, reader, discovery.KindEndpoint)
	w.expect(discovery.Added, 1)
	w.expect(discovery.Synced, 0)
	// They are inspected many times, and each is warned of once.
	for i := range uint64(3) {
		touch(t, filepath.Join(dir, "README"), 0)
		touch(t, endpointPath(root, 5), 0)
		dynamoInsert(t, endpointPath(root, 0x10+i), endpointJSON(0x10+i, "cpu"))
		w.expect(discovery.Added, 0x10+i)
	}
	if n := reader.Stats().InvalidEntries; n != 6 {
		t.Errorf("%d invalid entries, want 6:\n%v", n, log)
	}
	if err := os.Remove(filepath.Join(dir, "README")); err != nil {
		t.Fatal(err)
	}
	if list, err := reader.List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint}); err != nil || len(list) != 4 {
		t.Errorf("listed %d, %v", len(list), err)
	}
}

// TestExpiredAreNotListed lists after owners died while no process was running.
func TestExpiredAreNotListed(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	stale, temp := endpointPath(root, 1), filepath.Join(root, endpointsDir, ".tmp_0123456789abcdef")
	dynamoInsert(t, stale, endpointJSON(1, "cpu"))
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
	if !exists(stale) || !exists(temp) {
		t.Error("a reader removed files")
	}
	if _, err := reader.RegisterAs(t.Context(), 2, endpoint()); err != nil {
		t.Fatal(err)
	}
	waittest.Eventually(t, "both expired files are removed by a process that registers", func() bool { return !exists(stale) && !exists(temp) })
}

// TestTwoGenerations has a file of each generation of Dynamo name the same
// channel. The channel is present as long as either file is.
func TestTwoGenerations(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	older := filepath.Join(root, channelsDir, "ns%2Fcomp%2Ft%2F2a")
	newer := filepath.Join(root, channelsDir, "namespace%2Fns%2Fcomponent%2Fcomp%2Ftopic%2Ft%2F2a")
	reader, _ := client(t, root, time.Hour)
	w := watch(t, reader, discovery.KindEventChannel)
	w.expect(discovery.Synced, 0)
	value := `{"type":"EventChannel","namespace":"ns","component":"comp","topic":"t","instance_id":42,"transport":{"kind":"Zmq","config":{"endpoint":"tcp://127.0.0.1:1"}}}`
	dynamoInsert(t, older, value)
	w.expect(discovery.Added, 42)
	scoped := strings.Replace(value, `"namespace":"ns","component":"comp"`, `"scope":{"kind":"component","namespace":"ns","component":"comp"}`, 1)
	scoped = strings.Replace(scoped, ":1\"", ":2\"", 1)
	dynamoInsert(t, newer, scoped)
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

// TestDirectoryReplaced moves the directory away. Owners have one TTL to register
// again before watches report them Removed.
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
	dynamoInsert(t, endpointPath(root, 2), endpointJSON(2, "cpu"))
	w.expect(discovery.Added, 2)
	if err := os.Rename(filepath.Join(root, "v1"), filepath.Join(root, "v0")); err != nil {
		t.Fatal(err)
	}
	w.expect(discovery.Removed, 2) // and not 1, which is registered again
	if !exists(endpointPath(root, 1)) {
		t.Error("1 is not registered again")
	}
}
