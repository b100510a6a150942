package natsversions

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// server is a nats-server process that belongs to a test, with JetStream on a
// store of its own.
type server struct {
	t       *testing.T
	program string
	dir     string
	port    string
	config  string // beside the address and the directories
	domain  string // of JetStream; may be empty
	guard   *exec.Cmd
	stdin   io.Closer // of the guard
	process *os.Process
}

func run(t *testing.T, version string) *server {
	t.Helper()
	return runWith(t, version, "", "")
}

// runWith starts a server with further lines of configuration.
func runWith(t *testing.T, version, domain, config string) *server {
	t.Helper()
	s := &server{t: t, program: binary(t, version), dir: t.TempDir(), port: "-1", domain: domain, config: config}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// guard runs a program with its arguments, prints its process id, and kills it
// when standard input is closed, which also happens when the tests die.
func guard(args []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, cmd.Process.Pid)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = cmd.Process.Kill()
	}()
	_ = cmd.Wait() // the tests end it by signals
	return nil
}

// start starts a server on its store, and on its former port if it had one, and
// waits until it accepts connections.
func (s *server) start() {
	s.t.Helper()
	file := filepath.Join(s.dir, "server.conf")
	text := fmt.Sprintf("listen: 127.0.0.1:%s\nports_file_dir: %q\njetstream { store_dir: %q\n%s }\n%s\n",
		s.port, s.dir, s.store(), domainLine(s.domain), s.config)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.guard = exec.Command(os.Args[0], s.program, "-c", file, "-l", filepath.Join(s.dir, "log"))
	s.guard.Env = append(os.Environ(), roleVar+"=guard")
	s.guard.Stderr = os.Stderr
	stdin, err := s.guard.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	stdout, err := s.guard.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.guard.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.stdin = stdin
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		s.t.Fatalf("the server did not start: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		s.t.Fatal(err)
	}
	if s.process, err = os.FindProcess(pid); err != nil {
		s.t.Fatal(err)
	}
	waittest.Eventually(s.t, "the server accepts connections", s.isReady)
}

func domainLine(domain string) string {
	if domain == "" {
		return ""
	}
	return "domain: " + domain
}

// isReady reads the address of the server from the file that it writes once it
// listens.
func (s *server) isReady() bool {
	file := filepath.Join(s.dir, fmt.Sprintf("%s_%d.ports", filepath.Base(s.program), s.process.Pid))
	text, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	var ports struct {
		NATS []string `json:"nats"`
	}
	if json.Unmarshal(text, &ports) != nil || len(ports.NATS) == 0 {
		return false
	}
	address, err := url.Parse(ports.NATS[0])
	if err != nil {
		return false
	}
	s.port = address.Port()
	nc, err := nats.Connect(s.url())
	if err != nil {
		return false
	}
	nc.Close()
	return true
}

func (s *server) url() string   { return "nats://127.0.0.1:" + s.port }
func (s *server) store() string { return filepath.Join(s.dir, "store") }

// kill ends the server as a crash would. It is idempotent.
func (s *server) kill() {
	_ = s.stdin.Close()
	_ = s.guard.Wait()
}

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// stop shuts the server down.
func (s *server) stop() {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	_ = s.guard.Wait()
}

// wipe removes the store of a stopped server.
func (s *server) wipe() {
	s.t.Helper()
	if err := os.RemoveAll(s.store()); err != nil {
		s.t.Fatal(err)
	}
}

// cluster starts three servers that form one JetStream cluster.
func cluster(t *testing.T, version string) []*server {
	t.Helper()
	var ports, routes []string
	for range 3 {
		port := strconv.Itoa(natstest.FreePort(t))
		ports, routes = append(ports, port), append(routes, "nats://127.0.0.1:"+port)
	}
	servers := make([]*server, len(ports))
	for i, port := range ports {
		servers[i] = runWith(t, version, "", fmt.Sprintf("server_name: node%d\ncluster { name: test, listen: \"127.0.0.1:%s\", routes: [%s] }",
			i, port, strings.Join(routes, ", ")))
	}
	return servers
}

func urls(servers []*server) string {
	list := make([]string, len(servers))
	for i, s := range servers {
		list[i] = s.url()
	}
	return strings.Join(list, ",")
}
