package natstest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/dynplane/dynplane/internal/waittest"
)

// processVar makes a test binary act as a server. Its value is a processConfig.
const processVar = "DYNPLANE_TEST_NATS_SERVER"

type processConfig struct {
	Dir, Name     string
	Port, Cluster int
	Routes        []string
}

// Process is a server in a process of its own, which unlike a Server can be killed
// and frozen. It is a child of the test, whose TestMain must call ServeProcess.
type Process struct {
	t      testing.TB
	config processConfig
	cmd    *exec.Cmd
	stdin  io.Closer // its end stops the server
}

// RunProcess starts a server with JetStream on a store of its own.
func RunProcess(t testing.TB) *Process {
	t.Helper()
	return runProcess(t, processConfig{Name: "single"})
}

// ProcessCluster starts n servers that form one JetStream cluster. Clients of one
// do not learn the addresses of the others.
func ProcessCluster(t testing.TB, n int) []*Process {
	t.Helper()
	ports := make([]int, n)
	var routes []string
	for i := range ports {
		ports[i] = FreePort(t)
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[i]))
	}
	processes := make([]*Process, n)
	for i := range processes {
		processes[i] = runProcess(t, processConfig{Name: fmt.Sprintf("node%d", i), Cluster: ports[i], Routes: routes})
	}
	return processes
}

func runProcess(t testing.TB, config processConfig) *Process {
	t.Helper()
	config.Dir, config.Port = t.TempDir(), FreePort(t)
	p := &Process{t: t, config: config}
	p.Start()
	t.Cleanup(p.Kill)
	return p
}

// Start starts a server that has ended, on its old address and store, and waits
// until it accepts connections.
func (p *Process) Start() {
	p.t.Helper()
	if err := p.start(); err != nil {
		p.t.Fatalf("natstest: start a server process: %v", err)
	}
}

func (p *Process) start() error {
	config, err := json.Marshal(p.config)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p.cmd = exec.Command(self)
	p.cmd.Env = append(os.Environ(), processVar+"="+string(config))
	p.cmd.Stderr = os.Stderr
	// In a group of its own, a frozen server is continued by the kernel when the
	// test ends without a cleanup.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	_, err = bufio.NewReader(stdout).ReadString('\n')
	return err
}

// Stop ends the server gracefully.
func (p *Process) Stop() {
	_ = p.stdin.Close()
	_ = p.cmd.Wait()
}

// Kill ends the server at once. It is idempotent.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// Freeze stops the process until Thaw: its connections stay open.
func (p *Process) Freeze() { p.signal(syscall.SIGSTOP) }

// Thaw continues the process.
func (p *Process) Thaw() { p.signal(syscall.SIGCONT) }

func (p *Process) signal(s os.Signal) {
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Errorf("natstest: signal %v to the server process: %v", s, err)
	}
}

// Wipe removes the store of a server that has ended.
func (p *Process) Wipe() {
	if err := os.RemoveAll(p.config.Dir); err != nil {
		p.t.Errorf("natstest: %v", err)
	}
}

// Addr is the address for clients, host:port.
func (p *Process) Addr() string { return fmt.Sprintf("127.0.0.1:%d", p.config.Port) }

// Name is the name of the server.
func (p *Process) Name() string { return p.config.Name }

// URL is the address for clients.
func (p *Process) URL() string { return "nats://" + p.Addr() }

// ServeProcess runs a server if this process is the child of a Process, and reports
// whether it is one. It is called first in TestMain.
func ServeProcess() (child bool, err error) {
	text, child := os.LookupEnv(processVar) //nolint:forbidigo // TestMain calls it
	if child {
		err = serveProcess(text)
	}
	return child, err
}

func serveProcess(text string) error {
	var config processConfig
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return err
	}
	opt := &server.Options{
		Host: "127.0.0.1", Port: config.Port, ServerName: config.Name,
		JetStream: true, StoreDir: config.Dir, NoSigs: true, NoLog: true,
	}
	if config.Cluster != 0 {
		opt.Cluster = server.ClusterOpts{Name: "natstest", Host: "127.0.0.1", Port: config.Cluster, NoAdvertise: true}
		for _, route := range config.Routes {
			u, err := url.Parse(route)
			if err != nil {
				return err
			}
			opt.Routes = append(opt.Routes, u)
		}
	}
	srv, err := server.NewServer(opt)
	if err != nil {
		return err
	}
	srv.Start()
	if !srv.ReadyForConnections(waittest.Patience) {
		return fmt.Errorf("not ready within %v", waittest.Patience)
	}
	if _, err := fmt.Fprintln(os.Stdout, "ready"); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent stops the server, or ends
	srv.Shutdown()
	srv.WaitForShutdown()
	return nil
}
