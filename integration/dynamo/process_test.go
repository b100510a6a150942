package dynamo

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// process is a server in a process of its own.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	line  string // the first one that it printed
}

// run starts a server and waits for its first line.
func run(t *testing.T, env []string, name string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = env
	logs, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = logs.Close() }()
	cmd.Stderr = logs
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, stdin: stdin}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		p.kill()
		printed, _ := os.ReadFile(logs.Name())
		t.Fatalf("%s did not start: %v: %s", name, err, printed)
	}
	p.line = strings.TrimSpace(line)
	return p
}

// kill ends the process as kill -9 does. It is idempotent.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	_ = p.stdin.Close()
}

// etcdServer is an etcd server that can be killed and started again. It ends after
// the clients that were opened later than it was started for the first time.
type etcdServer struct {
	*process
	t   *testing.T
	dir string
}

func runEtcd(t *testing.T) *etcdServer {
	t.Helper()
	s := &etcdServer{t: t, dir: filepath.Join(t.TempDir(), "etcd")}
	s.start("127.0.0.1:0")
	t.Cleanup(func() { s.kill() })
	return s
}

func (s *etcdServer) start(listen string) {
	s.t.Helper()
	s.process = run(s.t, append(os.Environ(), roleVar+"=etcd"), os.Args[0], s.dir, listen)
}

// brokerProgram builds zmq-broker when it is first used.
var brokerProgram = sync.OnceValues(func() (string, error) {
	file := filepath.Join(bin, "zmq-broker")
	cmd := exec.Command("go", "-C", filepath.Join("..", ".."), "build", "-buildvcs=false", "-o", file, "./cmd/zmq-broker")
	if out, err := cmd.CombinedOutput(); err != nil {
		return string(out), err
	}
	return file, nil
})

// broker is a zmq-broker that can be killed and started again on its ports.
type broker struct {
	*process
	t          *testing.T
	env        []string
	xsub, xpub string
}

func runBroker(t *testing.T, env map[string]string) *broker {
	t.Helper()
	b := &broker{t: t, xsub: "tcp://127.0.0.1:0", xpub: "tcp://127.0.0.1:0"}
	for name, value := range env {
		b.env = append(b.env, name+"="+value)
	}
	b.start()
	t.Cleanup(func() { b.kill() })
	return b
}

func (b *broker) start() {
	b.t.Helper()
	program, err := brokerProgram()
	if err != nil {
		b.t.Fatalf("%v: %s", err, program)
	}
	b.process = run(b.t, b.env, program, "-xsub-bind", b.xsub, "-xpub-bind", b.xpub)
	xsub, xpub, _ := strings.Cut(b.line, ",")
	b.xsub, b.xpub = strings.TrimPrefix(xsub, "xsub="), strings.TrimPrefix(xpub, "xpub=")
}
