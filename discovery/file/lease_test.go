//go:build linux || darwin

package file_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/file"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestKeptAlive asserts that a registration outlives its TTL, and nothing about
// the time of its heartbeats.
func TestKeptAlive(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	owner, _ := client(t, root, 2*time.Second)
	if _, err := owner.RegisterAs(t.Context(), 1, endpoint()); err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(endpointPath(root, 1))
	if err != nil {
		t.Fatal(err)
	}
	waittest.Eventually(t, "a heartbeat later than the TTL", func() bool {
		now, err := os.Stat(endpointPath(root, 1))
		if err != nil || !os.SameFile(first, now) {
			t.Fatalf("the file was lost or replaced: %v", err)
		}
		return now.ModTime().Sub(first.ModTime()) > 2*time.Second
	})
}

func TestLostFilesAreRegisteredAgain(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	owner, log := client(t, root, time.Second)
	for id := range uint64(3) {
		if _, err := owner.RegisterAs(t.Context(), id, endpoint()); err != nil {
			t.Fatal(err)
		}
	}
	reader, _ := client(t, root, time.Second)
	if err := os.RemoveAll(filepath.Join(root, "v1")); err != nil {
		t.Fatal(err)
	}
	waittest.Eventually(t, "all three are listed again", func() bool {
		list, err := reader.List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint})
		return err == nil && len(list) == 3
	})
	waittest.Eventually(t, "the warning", func() bool { return log.Count("written again") > 0 })
	if log.Count("written again") > 2 { // two if the removal fell between two heartbeats
		t.Errorf("warned more than once:\n%v", log)
	}
}

func TestTakenOverByAnotherWriter(t *testing.T) {
	t.Parallel()
	for name, overwrite := range map[string]func(t *testing.T, path string){
		"renamed over": func(t *testing.T, path string) {
			t.Helper()
			dynamoReplace(t, path, endpointJSON(1, "cuda"))
		},
		"written in place": func(t *testing.T, path string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(endpointJSON(1, "cuda")), 0o666); err != nil {
				t.Fatal(err)
			}
		},
		"removed and made, same value": func(t *testing.T, path string) {
			t.Helper()
			value, err := os.ReadFile(path)
			if err := errors.Join(err, os.Remove(path)); err != nil {
				t.Fatal(err)
			}
			dynamoInsert(t, path, string(value))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			owner, log := client(t, root, 4*time.Second)
			reg, err := owner.RegisterAs(t.Context(), 1, endpoint())
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, endpointPath(root, 1))
			ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
			defer cancel()
			if err := reg.Wait(ctx); !errors.Is(err, discovery.ErrTakenOver) {
				t.Fatalf("the former owner's lease ended with %v, want ErrTakenOver", err)
			}
			if log.Count("another owner took over") != 1 {
				t.Errorf("want one warning:\n%v", log)
			}
			if err := owner.Shutdown(t.Context()); err != nil || !exists(endpointPath(root, 1)) {
				t.Errorf("shutdown removed the file of another owner: %v", err)
			}
		})
	}
}

func TestLockedDirectory(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	c, _ := client(t, root, 0)
	reg, err := c.RegisterAs(t.Context(), 1, endpoint())
	if err != nil {
		t.Fatal(err)
	}
	unlock := flock(t, filepath.Join(root, endpointsDir))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.RegisterAs(ctx, 2, endpoint()); !errors.Is(err, file.ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("register: %v, want ErrLocked and the error of the context", err)
	}
	if _, err := c.List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint}); !errors.Is(err, file.ErrLocked) {
		t.Errorf("list: %v, want ErrLocked", err)
	}
	for range 2 {
		if err := reg.Unregister(ctx); !errors.Is(err, file.ErrLocked) {
			t.Errorf("unregister: %v, want ErrLocked", err)
		}
	}
	unlock()
	if err := reg.Unregister(t.Context()); err != nil || exists(endpointPath(root, 1)) {
		t.Errorf("unregister after the lock was released: %v", err)
	}
	if _, err := c.RegisterAs(t.Context(), 1, endpoint()); err != nil {
		t.Errorf("register after the lock was released: %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Join(root, endpointsDir)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// TestUnusableDirectory puts a file in the place of the directory. The health shows
// it, and if that lasts, the lease ends with the reason.
func TestUnusableDirectory(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	store := openStore(t, root, 2*time.Second)
	l := leaseOf(t, store, 1, "a")
	if h, _ := l.Health(); !h.Healthy || h.LastBeat.IsZero() {
		t.Errorf("health %+v", h)
	}
	if err := os.RemoveAll(filepath.Join(root, "v1")); err != nil {
		t.Fatal(err)
	}
	waittest.Eventually(t, "the file is back", func() bool { return exists(endpointPath(root, 1)) })
	waittest.Eventually(t, "healthy", func() bool { h, _ := l.Health(); return h.Healthy })

	dir := filepath.Join(root, endpointsDir)
	waittest.Eventually(t, "there is a file in its place", func() bool { // which the keep-alive may make again
		return os.RemoveAll(dir) == nil && os.WriteFile(dir, nil, 0o666) == nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	if err := l.Wait(ctx); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("the lease ended with %v, want that it is not a directory", err)
	}
	if h, _ := l.Health(); h.Healthy || !errors.Is(h.Err, syscall.ENOTDIR) {
		t.Errorf("health %+v", h)
	}
	if err := store.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}
