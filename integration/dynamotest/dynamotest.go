// Package dynamotest runs programs on the runtime of NVIDIA Dynamo beside tests,
// each as a process of its own. The programs, the pinned versions and the script
// that installs them are in integration/dynamo; tests that use this package must
// be in a sibling of that directory, or in it.
package dynamotest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/dynplane/dynplane/internal/waittest"
)

// The versions of the runtime that are installed: the last of the older
// generation and the newest. Deployment is the newest with its programs, run by
// module.py.
const (
	Gen1       = "1.3.1"
	Gen2       = "1.6.1"
	Deployment = "deployment-1.6.1"
)

// Line is a line that a peer has printed. Kind decides which fields are set.
type Line struct {
	Kind      string          `json:"kind"`
	WorkerID  uint64          `json:"worker_id"` // ready, of a worker
	Total     int             `json:"total"`     // sent
	Payload   string          `json:"payload"`   // event, in hex
	Instances []uint64        `json:"instances"` // instances
	Events    json.RawMessage `json:"events"`    // dump
}

// Peer is a running program. It ends with its test.
type Peer struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr string // file
	read   sync.WaitGroup

	mu    sync.Mutex
	lines []Line
	ended bool
}

// Start runs a program of integration/dynamo/peers, such as worker.py, and waits
// until it is ready. Its environment is env, besides the variables that
// any process needs and those that keep Dynamo on this machine.
func Start(t testing.TB, version, program string, env map[string]string) *Peer {
	t.Helper()
	p := Launch(t, version, program, env)
	p.Await("ready", 1)
	return p
}

// Launch is like Start, but does not wait. The program gets args.
func Launch(t testing.TB, version, program string, env map[string]string, args ...string) *Peer {
	t.Helper()
	cmd := exec.Command(python(t, version), append([]string{filepath.Join("..", "dynamo", "peers", program)}, args...)...)
	for name, value := range environment(version, env) {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	stdin, stdout, logs := startPiped(t, cmd)
	p := &Peer{t: t, cmd: cmd, stdin: stdin, stderr: logs}
	p.read.Go(func() { p.collect(stdout) })
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s of %s printed: %s", program, version, p.Log())
		}
	})
	return p
}

// python returns the interpreter of a version, which is installed first if need be.
func python(t testing.TB, version string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join("..", "dynamo", "venv"), version)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("dynamotest: install the runtime %s: %v: %s", version, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func environment(version string, env map[string]string) map[string]string {
	all := map[string]string{
		"PATH":                         os.Getenv("PATH"),
		"HOME":                         os.Getenv("HOME"),
		"TMPDIR":                       os.TempDir(),
		"PYTHONDONTWRITEBYTECODE":      "1",
		"HF_HUB_OFFLINE":               "1",
		"DYN_TCP_RPC_HOST":             "127.0.0.1",
		"DYN_LOG":                      "info",
		"DYN_SDK_DISABLE_ANSI_LOGGING": "1",
	}
	if version != Gen1 { // which fails on a loopback address
		all["DYN_TCP_RESPONSE_STREAM_HOST"] = "127.0.0.1"
	}
	maps.Copy(all, env)
	return all
}

func (p *Peer) collect(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var line Line
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			line = Line{Kind: "invalid: " + lines.Text()}
		}
		p.mu.Lock()
		p.lines = append(p.lines, line)
		p.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
}

// Lines returns the lines of a kind that have been printed.
func (p *Peer) Lines(kind string) (lines []Line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.lines {
		if line.Kind == kind {
			lines = append(lines, line)
		}
	}
	return lines
}

// Await waits for the n-th line of a kind, which it returns. The test fails if
// the peer ends before.
func (p *Peer) Await(kind string, n int) (line Line) {
	p.t.Helper()
	waittest.Eventually(p.t, "a peer printed "+kind, func() bool {
		p.mu.Lock()
		ended := p.ended
		p.mu.Unlock()
		lines := p.Lines(kind)
		if len(lines) >= n {
			line = lines[n-1]
			return true
		}
		if ended {
			p.t.Fatalf("dynamotest: the peer ended before it printed %q: %s", kind, p.Log())
		}
		return false
	})
	return line
}

// Ask sends a command and returns the next line of a kind.
func (p *Peer) Ask(command map[string]any, kind string) Line {
	p.t.Helper()
	before := len(p.Lines(kind))
	p.Send(command)
	return p.Await(kind, before+1)
}

// AwaitEnd waits until the process has closed its standard output.
func (p *Peer) AwaitEnd() {
	p.t.Helper()
	waittest.Eventually(p.t, "the peer ends", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.ended
	})
}

// Send sends a command.
func (p *Peer) Send(command map[string]any) {
	p.t.Helper()
	data, err := json.Marshal(command)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.stdin.Write(append(data, '\n')); err != nil {
		p.t.Fatalf("dynamotest: send %s: %v", data, err)
	}
}

// Signal sends a signal to the process.
func (p *Peer) Signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("dynamotest: signal: %v", err)
	}
}

// Kill ends the process as kill -9 does, and waits for its end. It is idempotent.
func (p *Peer) Kill() {
	_ = p.cmd.Process.Kill()
	p.read.Wait()
	_ = p.cmd.Wait()
}

// Log returns the end of what the process printed on its standard error.
func (p *Peer) Log() string {
	data, _ := os.ReadFile(p.stderr)
	const most = 6000
	if len(data) > most {
		data = data[len(data)-most:]
	}
	return string(data)
}
