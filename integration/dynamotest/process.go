package dynamotest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Process is a server in a process of its own. Its starter kills it.
type Process struct {
	Line string // the first one that it has printed

	cmd   *exec.Cmd
	stdin io.Closer
}

// Run starts a server with an environment and waits for its first line.
func Run(t testing.TB, env []string, name string, args ...string) *Process {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = env
	stdin, stdout, logs := startPiped(t, cmd)
	p := &Process{cmd: cmd, stdin: stdin}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		p.Kill()
		printed, _ := os.ReadFile(logs)
		t.Fatalf("%s did not start: %v: %s", name, err, printed)
	}
	p.Line = strings.TrimSpace(line)
	return p
}

// startPiped starts a command whose standard error goes to a file, logs.
func startPiped(t testing.TB, cmd *exec.Cmd) (stdin io.WriteCloser, stdout io.Reader, logs string) {
	t.Helper()
	stderr, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stderr.Close() }()
	cmd.Stderr = stderr
	if stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if stdout, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return stdin, stdout, stderr.Name()
}

// Kill ends the process as kill -9 does. It is idempotent.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	_ = p.stdin.Close()
}

// Broker is a zmq-broker that can be killed and started again on its ports. Its Line
// is a value of DYN_ZMQ_BROKER_URL.
type Broker struct {
	*Process
	t          testing.TB
	program    string
	env        []string
	XSub, XPub string // its addresses
}

// BuildBroker builds zmq-broker in a directory and returns the file.
func BuildBroker(dir string) (file string, err error) {
	file = filepath.Join(dir, "zmq-broker")
	cmd := exec.Command("go", "-C", filepath.Join("..", ".."), "build", "-buildvcs=false", "-o", file, "./cmd/zmq-broker")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build zmq-broker: %w: %s", err, out)
	}
	return file, nil
}

// RunBroker starts a zmq-broker, with no environment but env. It ends with the test.
func RunBroker(t testing.TB, program string, env map[string]string) *Broker {
	t.Helper()
	b := &Broker{t: t, program: program, env: []string{}, XSub: "tcp://127.0.0.1:0", XPub: "tcp://127.0.0.1:0"}
	for name, value := range env {
		b.env = append(b.env, name+"="+value)
	}
	b.Start()
	t.Cleanup(func() { b.Kill() }) // whichever process that is then
	return b
}

// Start starts a broker that was killed.
func (b *Broker) Start() {
	b.t.Helper()
	b.Process = Run(b.t, b.env, b.program, "-xsub-bind", b.XSub, "-xpub-bind", b.XPub)
	xsub, xpub, _ := strings.Cut(b.Line, ",")
	b.XSub, b.XPub = strings.TrimPrefix(xsub, "xsub="), strings.TrimPrefix(xpub, "xpub=")
}
