package soak

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/logtest"
)

// eventProcess is a publisher, subscriber or broker in a process of its own.
type eventProcess struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr *logtest.Buffer
	read   sync.WaitGroup // of stdout
	once   sync.Once
	err    error // of Wait
}

// startProcess starts a program. take is called for each line that it writes.
func startProcess(t *testing.T, name string, env []string, take func(line string), program string, args ...string) (*eventProcess, error) {
	p := &eventProcess{t: t, name: name, cmd: exec.Command(program, args...), stderr: &logtest.Buffer{}}
	p.cmd.Env, p.cmd.Stderr = env, p.stderr
	// In a group of its own, a frozen process is ended by the kernel when the test ends
	// without a cleanup.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.read.Go(func() {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			take(lines.Text())
		}
	})
	return p, nil
}

func startChild(t *testing.T, name string, config childConfig, take func(line string)) (*eventProcess, error) {
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return startProcess(t, name, []string{childVar + "=" + string(text)}, take, self)
}

// command writes a command to a child.
func (p *eventProcess) command(text string) { _, _ = fmt.Fprintln(p.stdin, text) }

func (p *eventProcess) signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// wait waits for the end. It is idempotent.
func (p *eventProcess) wait() error {
	p.once.Do(func() {
		p.read.Wait() // before Wait, which closes the pipe
		p.err = p.cmd.Wait()
		_ = p.stdin.Close()
	})
	return p.err
}

func (p *eventProcess) kill() {
	p.signal(syscall.SIGKILL)
	_ = p.wait()
}

// stop ends the process gracefully, and returns what is wrong.
func (p *eventProcess) stop(ask func()) error {
	ask()
	timer := time.AfterFunc(2*time.Minute, func() { p.signal(syscall.SIGQUIT) }) // prints goroutines
	defer timer.Stop()
	if err := p.wait(); err != nil {
		return fmt.Errorf("%w: %s", err, p.stderr)
	}
	return nil
}

// peakMemory returns the largest size that a living process has had in memory, in
// bytes, or 0 where /proc does not exist.
func (p *eventProcess) peakMemory() (size int64) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			_, _ = fmt.Sscan(rest, &size)
		}
	}
	return size << 10
}
