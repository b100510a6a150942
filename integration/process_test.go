package integration

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// childVar makes the test binary act as an owner that registers an endpoint and
// waits to be killed.
const childVar = "DYNPLANE_TEST_CHILD"

func TestMain(m *testing.M) {
	if _, ok := os.LookupEnv(childVar); ok { //nolint:forbidigo // this is main
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if buildDir, err = os.MkdirTemp("", "dynplane-test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(buildDir) }()
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(natstest.IgnoreServer()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

func child() error {
	ctx := context.Background()
	lookup := os.LookupEnv //nolint:forbidigo // the main of the child
	client, err := backend.Open(ctx, lookup, backend.Options{Bucket: natskv.Options{TTL: time.Second}})
	if err != nil {
		return err
	}
	reg, err := client.RegisterAs(ctx, 66, endpoint("generate"))
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, reg.Instance().ID().Path()); err != nil {
		return err
	}
	return reg.Wait(ctx)
}

// process is a program under test, with its output.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr *logtest.Buffer
	done   chan struct{}
	err    error // of Wait, after done
}

func start(t *testing.T, e env, program string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(program, args...), stderr: &logtest.Buffer{}, done: make(chan struct{})}
	for name, value := range e {
		p.cmd.Env = append(p.cmd.Env, name+"="+value)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout, p.cmd.Stdout, p.cmd.Stderr = bufio.NewReader(r), w, p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		_ = r.Close()
		if t.Failed() {
			t.Logf("%s printed:\n%s", filepath.Base(program), p.stderr)
		}
	})
	return p
}

func (p *process) line() string {
	p.t.Helper()
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		p.t.Fatalf("no line from %v: %v\n%s", p.cmd.Args, err, p.stderr)
	}
	return strings.TrimSpace(line)
}

func (p *process) signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// exit waits for the end and returns the exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(waittest.Patience):
		p.t.Fatalf("%v does not end", p.cmd.Args)
	}
	return p.cmd.ProcessState.ExitCode()
}

// buildDir is the directory for binaries, which TestMain makes.
var buildDir string

// brokerBinary builds cmd/zmq-broker once for all tests.
var brokerBinary = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "build", "-o", buildDir, "../cmd/zmq-broker").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return filepath.Join(buildDir, "zmq-broker"), nil
})

func startBroker(t *testing.T, e env, args ...string) *process {
	t.Helper()
	binary, err := brokerBinary()
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-xsub-bind", "tcp://127.0.0.1:0", "-xpub-bind", "tcp://127.0.0.1:0"}, args...)
	return start(t, e, binary, args...)
}

func TestKilledProcessIsRemoved(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	reader, _ := newClient(t, server.URL(), natskv.Options{TTL: time.Second})
	w := startWatch(t, reader, endpoints)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, env{childVar: "1", "NATS_SERVER": server.URL()}, self)
	if got := p.line(); got != "dynamo/backend/generate/42" {
		t.Fatalf("the child registered %q", got)
	}
	w.awaitAdded(66)
	killed := time.Now()
	p.signal(syscall.SIGKILL)
	if took := w.awaitRemoved(66).Sub(killed); took > 6*time.Second {
		t.Errorf("removed %v after kill -9, with a TTL of 1s", took)
	}
	w.expect(66, 1)
}

func TestBrokerProcess(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	reader, _ := newClient(t, server.URL(), natskv.Options{})
	w := startWatch(t, reader, discovery.Query{Kind: discovery.KindEventChannel})
	p := startBroker(t, env{"NATS_SERVER": server.URL(), "ZMQ_BROKER_NAMESPACE": "dynamo"})
	url, err := eventplane.ParseBroker(p.line())
	if err != nil {
		t.Fatalf("the ready line: %v", err)
	}
	// It is registered before it prints its ready line, with the same ports.
	found, err := reader.List(t.Context(), discovery.Query{Kind: discovery.KindEventChannel})
	if err != nil || len(found) != 1 {
		t.Fatalf("registered: %v, %v", found, err)
	}
	w.awaitAdded(found[0].InstanceID)
	ch := found[0].Spec.(discovery.EventChannel)
	if want := (discovery.Scope{Namespace: "dynamo", Component: "zmq_broker"}); ch.Scope != want || ch.Topic != "broker" {
		t.Errorf("registered as %+v", ch)
	}
	tr := ch.Transport.(discovery.ZMQBroker)
	if tr.XSubEndpoints[0] != url.XSub[0] || tr.XPubEndpoints[0] != url.XPub[0] {
		t.Errorf("registered %+v, printed %v", tr, url)
	}

	e := env{"DYN_EVENT_PLANE": "zmq", "DYN_ZMQ_BROKER_URL": url.String()}
	c := newNode(t, server, e, nil).subscriber(backendScope, topic)
	pub := newNode(t, server, e, nil).publisher(backendScope, topic)
	introduce(t, pub, c)
	publish(t, pub, 100)
	c.awaitLast(pub.ID(), 99)
	c.expectComplete(pub.ID(), 100)

	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
	w.await("the broker is unregistered", func(ev []timedEvent) bool {
		return count(ev, discovery.Removed, found[0].InstanceID) == 1
	})
}

func TestBrokerProcessErrors(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() }) // not deferred: the subtests are parallel
	for _, c := range []struct {
		name string
		env  env
		args []string
		code int
		want string
	}{
		{"unknown flag", nil, []string{"-frobnicate"}, 2, "frobnicate"},
		{"argument", nil, []string{"now"}, 2, "now"},
		{"port taken", nil, []string{"-xsub-bind", "tcp://" + taken.Addr().String()}, 1, taken.Addr().String()},
		{"bad endpoint", nil, []string{"-xpub-bind", "5556"}, 2, "want tcp://HOST:PORT"},
		{"bad variable", env{"ZMQ_BROKER_XSUB_BIND": "x"}, []string{"-xsub-bind", ""}, 2, "ZMQ_BROKER_XSUB_BIND"},
		{"bad TTL", nil, []string{"-ttl", "500ms"}, 2, "500ms"},
		{"bad server", nil, []string{"-server", "foo"}, 2, "-server"},
		{"no server", env{"NATS_SERVER": "nats://127.0.0.1:1"}, nil, 1, "127.0.0.1:1"},
		{"wildcard host", env{"DYN_EVENT_PLANE_HOST": "0.0.0.0"}, nil, 2, "DYN_EVENT_PLANE_HOST"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := startBroker(t, c.env, c.args...)
			if code := p.exit(); code != c.code || !strings.Contains(p.stderr.String(), c.want) {
				t.Errorf("exit code %d, want %d and %q in:\n%s", code, c.code, c.want, p.stderr)
			}
		})
	}
}

func TestBrokerAdvertisesReachableEndpoints(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, host, bind, want string }{
		{"bound", "", "tcp://127.0.0.1:0", "tcp://127.0.0.1:"},
		{"host", "192.0.2.7", "tcp://127.0.0.1:0", "tcp://192.0.2.7:"},
		{"IPv6 host", "2001:db8::7", "tcp://127.0.0.1:0", "tcp://[2001:db8::7]:"},
		{"interface", "lo", "tcp://127.0.0.1:0", "tcp://127.0.0.1:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := startBroker(t, env{"DYN_EVENT_PLANE_HOST": c.host}, "-xsub-bind", c.bind)
			url, err := eventplane.ParseBroker(p.line())
			if err != nil || !strings.HasPrefix(url.XSub[0], c.want) || strings.HasSuffix(url.XSub[0], ":0") {
				t.Errorf("printed %v (%v), want %s and a port", url, err, c.want)
			}
			p.signal(syscall.SIGINT)
			if code := p.exit(); code != 0 {
				t.Errorf("exit code %d after SIGINT, want 0", code)
			}
		})
	}
}

// TestTwoBrokersOneKilled: nothing is lost or duplicated.
func TestTwoBrokersOneKilled(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"URL", "discovery"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			server := natstest.Run(t)
			a := startBroker(t, env{"NATS_SERVER": server.URL()})
			b := startBroker(t, env{"NATS_SERVER": server.URL()})
			e := env{"DYN_EVENT_PLANE": "zmq", "DYN_ZMQ_BROKER_ENABLED": "true"}
			urlA, urlB := a.line(), b.line()
			if by == "URL" {
				first, err := eventplane.ParseBroker(urlA)
				if err != nil {
					t.Fatal(err)
				}
				second, err := eventplane.ParseBroker(urlB)
				if err != nil {
					t.Fatal(err)
				}
				both := eventplane.BrokerConfig{XSub: append(first.XSub, second.XSub...), XPub: append(first.XPub, second.XPub...)}
				e["DYN_ZMQ_BROKER_URL"] = both.String()
			}
			c := newNode(t, server, e, nil).subscriber(backendScope, topic)
			pub := newNode(t, server, e, nil).publisher(backendScope, topic)
			ready, cancel := context.WithTimeout(t.Context(), waittest.Patience)
			defer cancel()
			if err := pub.Ready(ready); err != nil {
				t.Fatal(err)
			}
			introduce(t, pub, c)
			waittest.Eventually(t, "both brokers relay", func() bool {
				introduce(t, pub, c)
				return c.sub.Stats().Duplicates > 0
			})
			const n = 20000
			for i := range n {
				if i == n/2 {
					a.signal(syscall.SIGKILL)
				}
				if err := pub.Publish(t.Context(), kvEvent{pub.ID(), i, []uint64{1<<64 - 1, uint64(i)}}); err != nil {
					t.Fatal(err)
				}
			}
			c.awaitLast(pub.ID(), n-1)
			c.expectComplete(pub.ID(), n)
		})
	}
}
