//go:build linux || darwin

package file_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/waittest"
)

// process runs child in a process of its own.
type process struct {
	cmd   *exec.Cmd
	in    io.Closer
	ready chan error
}

func start(t *testing.T, root string, ttl time.Duration, first, n uint64) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, ttl.String(), fmt.Sprint(first), fmt.Sprint(n))
	cmd.Env = append(os.Environ(), childRoot+"="+root)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd, in, make(chan error, 1)}
	go func() {
		_, err := bufio.NewReader(out).ReadString('\n')
		p.ready <- err
	}()
	return p
}

func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

func TestTwentyProcessesAtOnce(t *testing.T) {
	t.Parallel()
	const processes, each, ttl = 20, 10, time.Minute
	root := t.TempDir()
	reader, log := client(t, root, ttl)
	w := watch(t, reader, discovery.KindEndpoint)
	w.expect(discovery.Synced, 0)
	var all []*process
	for i := range uint64(processes) {
		all = append(all, start(t, root, ttl, i*each, each))
	}
	for _, p := range all {
		if err := <-p.ready; err != nil {
			t.Fatal(err)
		}
	}
	w.expectAll(discovery.Added, processes*each)
	list, err := reader.List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint})
	if err != nil || len(list) != processes*each {
		t.Fatalf("%d are listed, %v, want %d", len(list), err, processes*each)
	}
	for _, p := range all {
		p.in.Close()
	}
	for _, p := range all {
		if err := p.cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(root, endpointsDir)); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	w.expectAll(discovery.Removed, processes*each)
	if s := log.String(); s != "" {
		t.Errorf("warned:\n%s", s)
	}
}

func TestKilledProcessIsRemoved(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	const ttl = 2 * time.Second
	reader, _ := client(t, root, ttl)
	w := watch(t, reader, discovery.KindEndpoint)
	w.expect(discovery.Synced, 0)
	p := start(t, root, ttl, 1, 1)
	w.expect(discovery.Added, 1)
	p.signal(t, syscall.SIGKILL)
	_ = p.cmd.Wait()
	w.expect(discovery.Removed, 1)
	registrant, _ := client(t, root, ttl)
	if _, err := registrant.RegisterAs(t.Context(), 2, endpoint()); err != nil {
		t.Fatal(err)
	}
	w.expect(discovery.Added, 2)
	waittest.Eventually(t, "its file is removed", func() bool { return !exists(endpointPath(root, 1)) })
}

// TestStoppedProcessComesBack stops a process for longer than its TTL. It is
// Removed, and its file is removed by another process that registers. Once it is
// continued, it registers again.
func TestStoppedProcessComesBack(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	const ttl = 4 * time.Second
	reader, _ := client(t, root, ttl)
	w := watch(t, reader, discovery.KindEndpoint)
	w.expect(discovery.Synced, 0)
	p := start(t, root, ttl, 1, 1)
	w.expect(discovery.Added, 1)
	registrant, _ := client(t, root, ttl)
	if _, err := registrant.RegisterAs(t.Context(), 2, endpoint()); err != nil {
		t.Fatal(err)
	}
	w.expect(discovery.Added, 2)
	p.signal(t, syscall.SIGSTOP)
	w.expect(discovery.Removed, 1)
	waittest.Eventually(t, "its file is removed", func() bool { return !exists(endpointPath(root, 1)) })
	p.signal(t, syscall.SIGCONT)
	w.expect(discovery.Added, 1)
	p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		t.Error(err)
	}
	w.expect(discovery.Removed, 1)
	if exists(endpointPath(root, 1)) {
		t.Error("it left its file behind")
	}
}
