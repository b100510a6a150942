package integration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

var backendScope = discovery.Scope{Namespace: "dynamo", Component: "backend"}

const topic = "kv-events"

// kvEvent stands for a worker's report about its cache.
type kvEvent struct {
	Worker uint64   `json:"worker_id"`
	N      int      `json:"event_id"`
	Blocks []uint64 `json:"block_hashes"`
}

// env is the environment of a test, which takes the place of the real one.
type env map[string]string

func (e env) lookup(name string) (string, bool) {
	value, ok := e[name]
	return value, ok
}

func (e env) with(name, value string) env {
	out := env{name: value}
	for k, v := range e {
		if k != name {
			out[k] = v
		}
	}
	return out
}

// node stands for a process: a discovery client and an event plane that an
// environment configures.
type node struct {
	t         *testing.T
	discovery *discovery.Client
	plane     *eventplane.Client
}

func newNode(t *testing.T, server *natstest.Server, e env, log *slog.Logger) *node {
	t.Helper()
	e = e.with("NATS_SERVER", server.URL()).with("DYN_EVENT_PLANE_HOST", "127.0.0.1")
	cfg, err := eventplane.ConfigFromEnv(e.lookup)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Logger = log
	client, _ := newClient(t, server.URL(), natskv.Options{TTL: 2 * time.Second})
	plane, err := eventplane.New(cfg, client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
		defer cancel()
		if err := plane.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return &node{t, client, plane}
}

func (n *node) publisher(scope discovery.Scope, topic string) *eventplane.Publisher {
	n.t.Helper()
	p, err := n.plane.Publisher(n.t.Context(), scope, topic)
	if err != nil {
		n.t.Fatal(err)
	}
	return p
}

// collector receives the events of a subscription in the background.
type collector struct {
	*inbox
	sub *eventplane.Subscriber
}

func (n *node) subscriber(scope discovery.Scope, topic string) *collector {
	n.t.Helper()
	sub, err := n.plane.Subscriber(n.t.Context(), scope, topic)
	if err != nil {
		n.t.Fatal(err)
	}
	c := &collector{newInbox(n.t), sub}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			ev, err := sub.Next(ctx)
			var bad *eventplane.DecodeError
			switch {
			case errors.As(err, &bad):
				c.addBad(bad)
			case err != nil:
				if !errors.Is(err, context.Canceled) && !errors.Is(err, eventplane.ErrClosed) {
					n.t.Errorf("next: %v", err)
				}
				return
			default:
				c.add(ev)
			}
		}
	}()
	n.t.Cleanup(func() { cancel(); <-done })
	ready, stop := context.WithTimeout(n.t.Context(), waittest.Patience)
	defer stop()
	if err := sub.Ready(ready); err != nil {
		n.t.Fatalf("ready: %v", err)
	}
	return c
}

// introduce publishes until the collector receives an event of p: a new ZMQ
// publisher drops events until the first subscriptions arrive.
func introduce(t *testing.T, p *eventplane.Publisher, c *collector) {
	t.Helper()
	waittest.Eventually(t, "the subscriber receives from the publisher", func() bool {
		if err := p.Publish(t.Context(), kvEvent{Worker: p.ID(), N: -1}); err != nil {
			t.Fatal(err)
		}
		return c.received(p.ID()) > 0
	})
	// The collector has received all of them once it has received a last one.
	if err := p.Publish(t.Context(), kvEvent{Worker: p.ID(), N: -2}); err != nil {
		t.Fatal(err)
	}
	c.awaitLast(p.ID(), -2)
}

func publish(t *testing.T, p *eventplane.Publisher, n int) {
	t.Helper()
	for i := range n {
		if err := p.Publish(t.Context(), kvEvent{p.ID(), i, []uint64{1<<64 - 1, uint64(i)}}); err != nil {
			t.Fatal(err)
		}
	}
}

func newBroker(t *testing.T) *broker.Broker {
	t.Helper()
	b, err := broker.New(broker.Options{XSubBind: "tcp://127.0.0.1:0", XPubBind: "tcp://127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, b.Close()); err != nil {
			t.Errorf("broker: %v", err)
		}
	})
	return b
}

func (n *node) announceBroker(b *broker.Broker) {
	n.t.Helper()
	register(n.t, n.discovery, discovery.NewInstanceID(), eventplane.BrokerChannel(backendScope.Namespace, eventplane.BrokerConfig{
		XSub: []string{b.XSubEndpoint()}, XPub: []string{b.XPubEndpoint()},
	}))
}

// TestEveryTransportAndCodec sends from two publishers to two subscribers, one
// that existed before them and one that subscribes later.
func TestEveryTransportAndCodec(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"nats", "zmq", "broker-by-url", "broker-by-discovery"} {
		for _, codec := range []string{"", "json", "msgpack"} {
			for _, wire := range []string{"gen2", "gen1"} {
				t.Run(fmt.Sprintf("%s/%s/%s", transport, codec, wire), func(t *testing.T) {
					t.Parallel()
					endToEnd(t, transport, codec, wire)
				})
			}
		}
	}
}

func endToEnd(t *testing.T, transport, codec, wire string) {
	server := natstest.Run(t)
	e := env{"DYN_EVENT_PLANE": "zmq", "DYN_EVENT_PLANE_CODEC": codec, "DYN_EVENT_PLANE_WIRE": wire}
	switch transport {
	case "nats":
		e["DYN_EVENT_PLANE"] = "nats"
	case "broker-by-url":
		b := newBroker(t)
		e["DYN_ZMQ_BROKER_URL"] = "xsub=" + b.XSubEndpoint() + " , xpub=" + b.XPubEndpoint()
	case "broker-by-discovery":
		e["DYN_ZMQ_BROKER_ENABLED"] = "1"
		newNode(t, server, env{}, nil).announceBroker(newBroker(t))
	}
	before := newNode(t, server, e, nil).subscriber(backendScope, topic)
	// Events of another scope or topic must not be received.
	stranger := newNode(t, server, e, nil)
	prefix := stranger.publisher(backendScope, topic+"-2")
	elsewhere := stranger.publisher(discovery.Scope{Namespace: "other", Component: "backend"}, topic)

	pubs := []*eventplane.Publisher{
		newNode(t, server, e, nil).publisher(backendScope, topic),
		newNode(t, server, e, nil).publisher(backendScope, topic),
	}
	for _, p := range pubs {
		introduce(t, p, before)
	}
	after := newNode(t, server, e, nil).subscriber(backendScope, topic)
	for _, p := range pubs {
		introduce(t, p, after)
	}
	publish(t, prefix, 10)
	publish(t, elsewhere, 10)

	const n = 500
	for _, p := range pubs {
		publish(t, p, n)
	}
	for _, c := range []*collector{before, after} {
		for _, p := range pubs {
			c.awaitLast(p.ID(), n-1)
			c.expectComplete(p.ID(), n)
		}
		c.expectNothingOf(prefix.ID())
		if wire == "gen2" || transport == "nats" || transport == "zmq" {
			c.expectNothingOf(elsewhere.ID()) // gen1 separates only topics on a broker
		}
		if s := c.sub.Stats(); s.Missed != 0 || s.DecodeErrors != 0 || s.Duplicates != 0 || s.Dropped != 0 {
			t.Errorf("stats %+v: want nothing lost, malformed or duplicated", s)
		}
	}
}

func TestPublishersComeAndGo(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	e := env{"DYN_EVENT_PLANE": "zmq"}
	log := &logtest.Buffer{}
	c := newNode(t, server, e, log.Logger()).subscriber(backendScope, topic)
	for round := range 3 {
		p := newNode(t, server, e, nil).publisher(backendScope, topic)
		introduce(t, p, c)
		if err := p.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		waittest.Eventually(t, "the subscriber disconnects", func() bool {
			return log.Count("eventplane: disconnected") == round+1
		})
	}
	if s := c.sub.Stats(); s.Missed != 0 || len(s.Publishers) != 3 {
		t.Errorf("stats %+v: want three publishers and nothing missed", s)
	}
}

// TestEndpointThatMoves registers a new address under the same id.
func TestEndpointThatMoves(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	e := env{"DYN_EVENT_PLANE": "zmq"}
	c := newNode(t, server, e, nil).subscriber(backendScope, topic)
	n := newNode(t, server, e, nil)
	// Two publishers elsewhere lend their sockets to a channel announced here. Events
	// are received only of ids that are registered here.
	first := n.publisher(discovery.Scope{Namespace: "lender"}, topic)
	second := n.publisher(discovery.Scope{Namespace: "lender"}, topic)
	for _, p := range []*eventplane.Publisher{first, second} {
		ch := p.Registration().Instance().Spec.(discovery.EventChannel)
		register(t, n.discovery, p.ID(), discovery.EventChannel{Scope: backendScope, Topic: topic, Transport: discovery.ZMQ{Endpoint: "tcp://127.0.0.1:1"}})
		register(t, n.discovery, 42, discovery.EventChannel{Scope: backendScope, Topic: topic, Transport: ch.Transport})
		introduce(t, p, c)
	}
	waittest.Eventually(t, "nothing more is received from the old endpoint", func() bool {
		before := c.received(first.ID())
		publish(t, first, 10)
		received := c.received(second.ID())
		publish(t, second, 10)
		waittest.Eventually(t, "all is received from the new endpoint", func() bool { return c.received(second.ID()) == received+10 })
		return c.received(first.ID()) == before
	})
}

// TestLastEvents: every event arrives although its publisher shuts down right
// after the last one.
func TestLastEvents(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]env{
		"nats": {}, "zmq": {"DYN_EVENT_PLANE": "zmq"}, "broker": {"DYN_EVENT_PLANE": "zmq", "DYN_ZMQ_BROKER_ENABLED": "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := natstest.Run(t)
			if name == "broker" {
				newNode(t, server, env{}, nil).announceBroker(newBroker(t))
			}
			c := newNode(t, server, e, nil).subscriber(backendScope, topic)
			p := newNode(t, server, e, nil).publisher(backendScope, topic)
			introduce(t, p, c)
			const n = 2000
			publish(t, p, n)
			if err := p.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.awaitLast(p.ID(), n-1)
			c.expectComplete(p.ID(), n)
		})
	}
}

// TestServerRestartUnderEvents: events that are published while the server is away
// wait for it, and none is lost unnoticed.
func TestServerRestartUnderEvents(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	c := newNode(t, server, env{}, nil).subscriber(backendScope, topic)
	p := newNode(t, server, env{}, nil).publisher(backendScope, topic)
	introduce(t, p, c)
	received := c.received(p.ID())
	server.Stop()
	const buffered = 7
	publish(t, p, buffered)
	server.Start()
	// The publisher may have reconnected before the subscriber.
	waittest.Eventually(t, "the events that were published meanwhile are received or missed", func() bool {
		return p.Publish(t.Context(), kvEvent{Worker: p.ID()}) == nil && c.received(p.ID())-received+int(c.missed(p.ID())) > buffered
	})
}
