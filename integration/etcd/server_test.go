package etcd

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"golang.org/x/crypto/bcrypt"
)

// serverConfig is passed to the server's process as JSON.
type serverConfig struct {
	Dir           string
	Listen        string // host:port
	CA, Cert, Key string // files; if set, clients need certificates too
}

const configVar = "DYNPLANE_TEST_SERVER"

// serve is the main function of the server's process. It prints the address of
// the server, and stops the server when standard input is closed, which also
// happens when the tests die.
func serve() error {
	var c serverConfig
	if err := json.Unmarshal([]byte(os.Getenv(configVar)), &c); err != nil {
		return err
	}
	config := embed.NewConfig()
	config.Dir = c.Dir
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	config.UnsafeNoFsync = true
	config.BcryptCost = uint(bcrypt.MinCost)
	// Short ticks allow leases of 1 s and an election at once.
	config.TickMs, config.ElectionMs = 20, 200
	scheme := "http"
	if c.Cert != "" {
		scheme = "https"
		config.ClientTLSInfo.CertFile, config.ClientTLSInfo.KeyFile = c.Cert, c.Key
		config.ClientTLSInfo.TrustedCAFile, config.ClientTLSInfo.ClientCertAuth = c.CA, true
	}
	config.ListenClientUrls = []url.URL{{Scheme: scheme, Host: c.Listen}}
	config.AdvertiseClientUrls = config.ListenClientUrls
	config.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:1"}} // it has no peers
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	<-server.Server.ReadyNotify()
	fmt.Fprintln(os.Stdout, server.Clients[0].Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	server.Close()
	return err
}

// server is an etcd server in its own process, which can be stopped and started
// again on the same address.
type server struct {
	t      testing.TB
	config serverConfig
	cmd    *exec.Cmd
	stdin  io.Closer
}

func runServer(tb testing.TB) *server {
	tb.Helper()
	return runServerWith(tb, serverConfig{})
}

func runServerWith(tb testing.TB, c serverConfig) *server {
	tb.Helper()
	c.Dir, c.Listen = filepath.Join(tb.TempDir(), "etcd"), "127.0.0.1:0"
	s := &server{t: tb, config: c}
	s.start()
	tb.Cleanup(s.kill)
	return s
}

func (s *server) start() {
	s.t.Helper()
	config, err := json.Marshal(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	var out io.Reader
	s.cmd, s.stdin, out = child(s.t, "server", configVar+"="+string(config))
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.t.Fatalf("the server did not start: %v", err)
	}
	s.config.Listen = strings.TrimSpace(line)
}

// child starts this binary in a role.
func child(tb testing.TB, role string, env ...string) (*exec.Cmd, io.Closer, io.Reader) {
	tb.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), roleVar+"="+role), env...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	return cmd, stdin, stdout
}

func (s *server) url() string {
	if s.config.Cert != "" {
		return "https://" + s.config.Listen
	}
	return "http://" + s.config.Listen
}

// stop shuts the server down.
func (s *server) stop() {
	_ = s.stdin.Close()
	_ = s.cmd.Wait()
}

// kill ends the server as a crash would. It is idempotent.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// wipe removes the data of a stopped server.
func (s *server) wipe() {
	s.t.Helper()
	if err := os.RemoveAll(s.config.Dir); err != nil {
		s.t.Fatal(err)
	}
}

// raw returns a plain client, as etcdctl or a Dynamo worker would use.
func (s *server) raw() *clientv3.Client {
	s.t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{s.url()}, Logger: zap.NewNop()})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

// rest waits for a time, in tests about durations.
func rest(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// proxy forwards connections between a client and a server, and can close them.
type proxy struct {
	listener net.Listener
	target   string
	mu       sync.Mutex
	down     bool
	conns    []net.Conn
	wg       sync.WaitGroup
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: target}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		p.disconnect()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) url() string { return "http://" + p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.target)
		p.mu.Lock()
		if err != nil || p.down {
			_ = near.Close()
			if err == nil {
				_ = far.Close()
			}
			p.mu.Unlock()
			continue
		}
		p.conns = append(p.conns, near, far)
		p.mu.Unlock()
		for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
			p.wg.Go(func() {
				_, _ = io.Copy(pair[0], pair[1])
				_ = pair[0].Close()
				_ = pair[1].Close()
			})
		}
	}
}

func (p *proxy) disconnect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

func (p *proxy) reconnect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}
