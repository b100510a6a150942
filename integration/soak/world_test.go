package soak

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/latencyproxy"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/natsconn"
)

const bucket = "soak"

// world is the servers, owners and observers of one test.
type world struct {
	t         *testing.T
	ctx       context.Context // done at the end of the test
	seed      uint64
	options   natskv.Options
	history   *history
	servers   []*natstest.Process
	owners    []*owner
	observers []*observer
	admin     jetstream.JetStream
	partition []link // what can be partitioned
	running   sync.WaitGroup
}

// link is the way of a client to the servers, one proxy for each of them.
type link struct {
	name    string
	proxies []*latencyproxy.Proxy
	owner   *owner // or nil
}

func newWorld(t *testing.T, seed uint64, o natskv.Options, servers []*natstest.Process) *world {
	t.Helper()
	o.Bucket = bucket
	if testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{
		t: t, ctx: ctx, seed: seed, options: o, servers: servers,
		history: &history{t: t, ttl: o.TTL, replicas: o.Replicas, handles: map[discovery.ID][]*handle{}},
	}
	t.Cleanup(func() { cancel(); w.running.Wait() })
	w.admin = w.connectAdmin()
	w.running.Go(w.measureStarvation)
	for i, delay := range []time.Duration{0, 0, 10 * time.Millisecond, 25 * time.Millisecond, 5 * time.Millisecond} {
		w.addOwner(i, delay)
	}
	for i, delay := range []time.Duration{0, 0, 25 * time.Millisecond, 10 * time.Millisecond} {
		w.addObserver(i, delay)
	}
	return w
}

// testLog writes lines to the log of a test.
type testLog struct{ t *testing.T }

func (l testLog) Write(line []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(line)))
	return len(line), nil
}

var _ io.Writer = testLog{}

func (w *world) randomOf(actor uint64) *rand.Rand { return rand.New(rand.NewPCG(w.seed, actor)) }

// link returns the URL of the servers behind a delay in each direction.
func (w *world) link(name string, delay time.Duration) (url string, l link) {
	l.name = name
	var urls []string
	for _, server := range w.servers {
		if delay == 0 {
			urls = append(urls, server.URL())
			continue
		}
		proxy, err := latencyproxy.Start(server.Addr(), delay)
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { _ = proxy.Close() })
		l.proxies = append(l.proxies, proxy)
		urls = append(urls, "nats://"+proxy.Addr())
	}
	return strings.Join(urls, ","), l
}

// dial connects, however long the servers are unreachable.
func (w *world) dial(name, url string) (*discovery.Client, *nats.Conn) {
	for {
		nc, err := natsconn.Connect(w.ctx, natsconn.Config{URL: url, Name: name})
		if err != nil && w.ctx.Err() == nil {
			w.pause(100 * time.Millisecond) // the server may be stopped
			continue
		}
		if err != nil {
			w.t.Errorf("%s: %v", name, err)
			return nil, nil
		}
		o := w.options
		if o.Logger != nil {
			o.Logger = o.Logger.With("client", name)
		}
		store, err := natskv.New(nc, o)
		if err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
		w.t.Cleanup(nc.Close)
		return discovery.NewClient(store, discovery.Options{Logger: o.Logger}), nc
	}
}

func (w *world) addOwner(i int, delay time.Duration) {
	name := fmt.Sprintf("owner%d", i)
	url, l := w.link(name, delay)
	o := &owner{
		name: name, history: w.history, random: w.randomOf(100 + uint64(i)), crashes: i%2 == 1,
		dial: func() (*discovery.Client, *nats.Conn) { return w.dial(name, url) }, first: 1000 * (1 + uint64(i)),
	}
	if delay == 5*time.Millisecond {
		l.owner = o
		w.partition = append(w.partition, l)
	}
	o.start(w.ctx)
	w.owners = append(w.owners, o)
}

func (w *world) addObserver(i int, delay time.Duration) {
	name := fmt.Sprintf("observer%d", i)
	url, l := w.link(name, delay)
	o := &observer{name: name, history: w.history, query: discovery.Query{Kind: discovery.KindEndpoint}, state: map[discovery.ID]string{}}
	if i%2 == 1 {
		o.query.Scope = discovery.Scope{Namespace: "soak", Component: "worker", Endpoint: fmt.Sprintf("e%d", i/2)}
	}
	if delay == 10*time.Millisecond {
		w.partition = append(w.partition, l)
	}
	o.client, _ = w.dial(name, url)
	w.observers = append(w.observers, o)
	w.running.Go(func() { o.run(w.ctx) })
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
		defer cancel()
		_ = o.client.Shutdown(ctx) // it has registered nothing
	})
}

func (w *world) connectAdmin() jetstream.JetStream {
	urls := make([]string, len(w.servers))
	for i, server := range w.servers {
		urls[i] = server.URL()
	}
	js, err := jetstream.New(natstest.Connect(w.t, strings.Join(urls, ",")))
	if err != nil {
		w.t.Fatal(err)
	}
	waittest.Eventually(w.t, "JetStream is ready", func() bool {
		ctx, cancel := context.WithTimeout(w.ctx, time.Second)
		defer cancel()
		_, err := js.AccountInfo(ctx)
		return err == nil
	})
	return js
}

// measureStarvation detects that this process got no processor.
func (w *world) measureStarvation() {
	const tick = 100 * time.Millisecond
	for last := time.Now(); ; last = time.Now() {
		select {
		case <-time.After(tick):
		case <-w.ctx.Done():
			return
		}
		if time.Since(last) > tick+w.options.TTL/4 {
			w.history.starve()
		}
	}
}
