package soak

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/wait"
	"github.com/dynplane/dynplane/internal/waittest"
)

// eventWorld is the processes of one test of the event plane.
type eventWorld struct {
	t         *testing.T
	transport string
	seed      uint64
	ledger    *ledger
	store     [2]string // directories of registrations, near and far
	far       *farSide
	env       [2]map[string]string // of children, near and far
	nats      *natstest.Process    // or nil
	natsMu    sync.Mutex           // held during a fault

	publishers, subscribers, brokers []*place

	mu    sync.Mutex
	lives uint64
}

// place is where a process runs, dies and is started again.
type place struct {
	name   string
	launch func() (*eventProcess, error)
	died   func() // called when the process has been killed

	process atomic.Pointer[eventProcess]
	mu      sync.Mutex // held during a fault
}

const (
	direct     = "direct"
	discovered = "discovered brokers"
	named      = "named brokers"
	overNATS   = "NATS"
)

func newEventWorld(t *testing.T, transport string, seed uint64) *eventWorld {
	t.Helper()
	w := &eventWorld{t: t, transport: transport, seed: seed, store: [2]string{t.TempDir(), t.TempDir()}}
	w.ledger = &ledger{t: t, published: map[uint64]*publication{}}
	w.far = newFarSide(t, w.store[0], w.store[1])
	t.Cleanup(w.kill) // first, so that the links are not in use any more
	for i := range w.env {
		w.env[i] = map[string]string{
			"DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": w.store[i], "DYN_EVENT_PLANE": "zmq", "DYN_EVENT_PLANE_HOST": "127.0.0.1",
		}
	}
	switch transport {
	case overNATS:
		w.nats = natstest.RunProcess(t)
		for i, url := range []string{w.nats.URL(), w.far.endpoint(w.nats.URL())} {
			w.env[i]["DYN_EVENT_PLANE"], w.env[i]["NATS_SERVER"] = "nats", url
		}
	case discovered, named:
		w.addBrokers()
	}
	for i, history := range []int{0, 256, 0} {
		w.addPublisher(i, history, []int{200, 200, 50}[i])
	}
	w.addSubscriber(0, false, eventplane.SubscriberOptions{Recover: true})
	w.addSubscriber(1, false, eventplane.SubscriberOptions{})
	w.addSubscriber(2, true, eventplane.SubscriberOptions{Recover: true, QueueSize: 64})
	w.addSubscriber(3, true, eventplane.SubscriberOptions{FromStart: true})
	return w
}

// kill ends all processes.
func (w *eventWorld) kill() {
	for _, places := range [][]*place{w.subscribers, w.publishers, w.brokers} {
		for _, p := range places {
			if p.process.Load() != nil {
				p.process.Load().kill()
				if w.t.Failed() && p.process.Load().stderr.String() != "" {
					w.t.Logf("%s printed: %.20000s", p.name, p.process.Load().stderr)
				}
			}
		}
	}
}

func (w *eventWorld) newLife() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lives++
	return w.lives
}

func (w *eventWorld) addPublisher(i, history, rate int) {
	p := &place{name: fmt.Sprintf("publisher%d", i)}
	var present *publication
	p.launch = func() (*eventProcess, error) {
		pub := &publication{name: p.name, life: w.newLife(), history: uint64(history), direct: w.transport == direct}
		if history == 0 {
			pub.history = eventplane.DefaultHistory
		}
		w.ledger.mu.Lock()
		present = pub
		w.ledger.mu.Unlock()
		config := childConfig{Life: pub.life, Store: w.store[0], Env: w.env[0], Rate: rate, History: history}
		return startChild(w.t, p.name, config, func(line string) { w.ledger.ofPublisher(pub, line) })
	}
	p.died = func() {
		w.ledger.mu.Lock()
		defer w.ledger.mu.Unlock()
		if !present.ended {
			present.killed = time.Now()
		}
	}
	w.publishers = append(w.publishers, p)
	w.start(p)
}

func (w *eventWorld) addSubscriber(i int, far bool, o eventplane.SubscriberOptions) {
	p := &place{name: fmt.Sprintf("subscriber%d", i)}
	o.Gaps = true
	side := 0
	if far {
		side = 1
	}
	var present *reception
	p.launch = func() (*eventProcess, error) {
		r := &reception{name: fmt.Sprintf("%s (process %d)", p.name, w.newLife()), options: o, far: far, started: time.Now(), from: map[uint64]*progress{}}
		w.ledger.mu.Lock()
		present = r
		w.ledger.receptions = append(w.ledger.receptions, r)
		w.ledger.mu.Unlock()
		config := childConfig{Store: w.store[side], Env: w.env[side], Subscriber: o}
		return startChild(w.t, p.name, config, func(line string) { w.ledger.ofSubscriber(r, line) })
	}
	p.died = func() {
		w.ledger.mu.Lock()
		defer w.ledger.mu.Unlock()
		present.ended = true
	}
	w.subscribers = append(w.subscribers, p)
	w.start(p)
}

// addBrokers starts two zmq-brokers.
func (w *eventWorld) addBrokers() {
	binary := w.buildBroker()
	var near, far eventplane.BrokerConfig
	for i := range 2 {
		xsub, xpub := natstest.FreePort(w.t), natstest.FreePort(w.t)
		ends := []string{fmt.Sprintf("tcp://127.0.0.1:%d", xsub), fmt.Sprintf("tcp://127.0.0.1:%d", xpub)}
		near.XSub, near.XPub = append(near.XSub, ends[0]), append(near.XPub, ends[1])
		far.XSub, far.XPub = append(far.XSub, w.far.endpoint(ends[0])), append(far.XPub, w.far.endpoint(ends[1]))
		p := &place{name: fmt.Sprintf("broker%d", i), died: func() {}}
		p.launch = func() (*eventProcess, error) {
			env := []string{"DYN_EVENT_PLANE_HOST=127.0.0.1"}
			if w.transport == discovered {
				env = append(env, "DYN_DISCOVERY_BACKEND=file", "DYN_FILE_KV="+w.store[0])
			}
			ready := make(chan struct{})
			var once sync.Once
			process, err := startProcess(w.t, p.name, env, func(string) { once.Do(func() { close(ready) }) },
				binary, "-xsub-bind", ends[0], "-xpub-bind", ends[1], "-namespace", eventScope.Namespace)
			if err != nil {
				return nil, err
			}
			ended := make(chan struct{})
			go func() { process.read.Wait(); close(ended) }()
			select {
			case <-ready:
				return process, nil
			case <-ended:
				return nil, errors.Join(errors.New("the broker ended"), process.wait())
			}
		}
		w.brokers = append(w.brokers, p)
		w.start(p)
	}
	for i, cfg := range []eventplane.BrokerConfig{near, far} {
		if w.transport == discovered {
			w.env[i]["DYN_ZMQ_BROKER_ENABLED"] = "true"
		} else {
			w.env[i]["DYN_ZMQ_BROKER_URL"] = cfg.String()
		}
	}
}

// start starts a process. The port of a broker may be taken for a moment.
func (w *eventWorld) start(p *place) {
	for deadline := time.Now().Add(waittest.Patience); ; w.pause(100 * time.Millisecond) {
		process, err := p.launch()
		if err == nil {
			p.process.Store(process)
			return
		}
		if time.Now().After(deadline) {
			w.t.Errorf("start %s: %v", p.name, err)
			return
		}
	}
}

// end ends a process gracefully.
func (w *eventWorld) end(p *place) {
	ask := func() { p.process.Load().command("stop") }
	if p.name[:6] == "broker" {
		ask = func() { p.process.Load().signal(syscall.SIGTERM) }
	}
	if err := p.process.Load().stop(ask); err != nil {
		// The last events of a publisher may not reach a server in time.
		w.ledger.mu.Lock()
		if w.ledger.faulty(time.Now().Add(-memoryOfFaults), time.Now(), "nats") == 0 || !strings.Contains(err.Error(), "shutdown of the publisher") {
			w.ledger.violation("%s: %v", p.name, err)
		}
		w.ledger.mu.Unlock()
	}
	p.died()
}

// buildBroker builds cmd/zmq-broker and returns the file.
func (w *eventWorld) buildBroker() string {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "zmq-broker")
	if out, err := exec.Command("go", "build", "-o", file, "../../cmd/zmq-broker").CombinedOutput(); err != nil {
		w.t.Fatalf("build zmq-broker: %v: %s", err, out)
	}
	return file
}

func (w *eventWorld) pause(d time.Duration) { _ = wait.Sleep(w.t.Context(), d) }

// randomOf returns the random numbers of an actor.
func (w *eventWorld) randomOf(actor uint64) *rand.Rand {
	for _, c := range w.transport {
		actor = 31*actor + uint64(c)
	}
	return rand.New(rand.NewPCG(w.seed, actor))
}
