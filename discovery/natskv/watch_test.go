package natskv_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

const bucket = "dynplane"

func endpoint(ns string) discovery.Endpoint {
	return discovery.Endpoint{
		Scope:     discovery.Scope{Namespace: ns, Component: "backend", Endpoint: "generate"},
		Transport: discovery.TCP("127.0.0.1:4000/1/generate"),
	}
}

func inNamespace(ns string) discovery.Query {
	return discovery.Query{Kind: discovery.KindEndpoint, Scope: discovery.Scope{Namespace: ns}}
}

func newClient(tb testing.TB, nc *nats.Conn, o natskv.Options) *discovery.Client {
	tb.Helper()
	store, err := natskv.New(nc, o)
	if err != nil {
		tb.Fatal(err)
	}
	client := discovery.NewClient(store, discovery.Options{})
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
		defer cancel()
		if err := client.Shutdown(ctx); err != nil {
			tb.Errorf("shutdown: %v", err)
		}
	})
	return client
}

func register(tb testing.TB, c *discovery.Client, id uint64, spec discovery.Spec) *discovery.Registration {
	tb.Helper()
	reg, err := c.RegisterAs(tb.Context(), id, spec)
	if err != nil {
		tb.Fatal(err)
	}
	return reg
}

// watch pulls the events of a watch one by one.
type watch struct {
	t    testing.TB
	next func() (discovery.Event, error, bool)
}

func newWatch(tb testing.TB, c *discovery.Client, q discovery.Query) *watch {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), waittest.Patience)
	next, stop := iter.Pull2(c.Watch(ctx, q))
	tb.Cleanup(func() { stop(); cancel() })
	return &watch{tb, next}
}

func (w *watch) expect(typ discovery.EventType, id uint64) {
	w.t.Helper()
	ev, err, _ := w.next()
	if err != nil || ev.Type != typ || ev.Instance.InstanceID != id {
		w.t.Fatalf("got %v %d, %v; want %v %d", ev.Type, ev.Instance.InstanceID, err, typ, id)
	}
}

// A network can drop messages of the server before either side detects that the
// connection is dead. The server counts them as delivered, and answers the pull
// on the next connection.
func TestWatchDetectsLostMessages(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	p := newProxy(t, strings.TrimPrefix(server.URL(), "nats://"))
	owner := newClient(t, server.Connect(t), natskv.Options{})
	reader := newClient(t, natstest.Connect(t, p.url()), natskv.Options{})
	register(t, owner, 1, endpoint("makes-the-bucket"))
	// Several watches, so that some have a pull pending during the whole outage.
	watches := make([]*watch, 16)
	for i := range watches {
		watches[i] = newWatch(t, reader, inNamespace(fmt.Sprint("ns-", i)))
		watches[i].expect(discovery.Synced, 0)
	}
	done := make(chan struct{})
	heard := make([]error, len(watches))
	var wg sync.WaitGroup
	for i, w := range watches {
		wg.Go(func() {
			ev, err, _ := w.next()
			if err == nil && (ev.Type != discovery.Added || ev.Instance.InstanceID != 7) {
				err = fmt.Errorf("got %+v", ev)
			}
			heard[i] = err
		})
	}
	go func() { wg.Wait(); close(done) }()
	outage(time.Second) // all are in their pulls
	p.each(func(pair *proxyPair) { pair.deaf.Store(true) })
	for i := range watches {
		register(t, owner, 7, endpoint(fmt.Sprint("ns-", i)))
	}
	p.each(func(pair *proxyPair) { _ = pair.client.(*net.TCPConn).CloseWrite() })
	<-done
	for i, err := range heard {
		if err != nil {
			t.Errorf("watch %d missed a registration: %v", i, err)
		}
	}
}

// outage blocks for the duration of an outage, which is part of the test.
func outage(d time.Duration) { <-time.After(d) }

func TestWatchOfASlowReader(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	var log logtest.Buffer
	owner := newClient(t, server.Connect(t), natskv.Options{})
	reader := newClient(t, server.Connect(t), natskv.Options{Logger: log.Logger()})
	for id := range uint64(20) {
		register(t, owner, 1+id, endpoint("ns"))
	}
	w := newWatch(t, reader, inNamespace("ns"))
	for id := range uint64(20) {
		w.expect(discovery.Added, 1+id)
		outage(200 * time.Millisecond) // four seconds in all, and no pull is late
	}
	w.expect(discovery.Synced, 0)
	if n := log.Count("gives up"); n != 0 {
		t.Errorf("the watch has listed again %d times", n)
	}
}

// Cards of 900 KB exceed the limit of one pull.
func TestListOfLargeCards(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	store, err := natskv.New(server.Connect(t), natskv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	client := discovery.NewClient(store, discovery.Options{})
	defer func() { _ = client.Shutdown(context.WithoutCancel(t.Context())) }()
	model, err := discovery.NewModel(discovery.Scope{Namespace: "ns", Component: "comp", Endpoint: "ep"},
		map[string]string{"display_name": "m", "template": strings.Repeat("x", 900_000)}, "")
	if err != nil {
		t.Fatal(err)
	}
	const n = 30
	for id := range uint64(n) {
		value, err := json.Marshal(discovery.Instance{InstanceID: id, Spec: model})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Register(t.Context(), model.ID(id), value, discovery.RegisterOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := client.List(t.Context(), discovery.Query{Kind: discovery.KindModel})
	if err != nil || len(list) != n {
		t.Fatalf("%d are listed, %v", len(list), err)
	}
	for _, in := range list {
		if got := in.Spec.(discovery.Model).Card; !bytes.Equal(got, model.Card) {
			t.Fatalf("%s has another card", in.ID())
		}
	}
}

func TestNamesThatAreNotSubjects(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	client := newClient(t, server.Connect(t), natskv.Options{})
	long := strings.Repeat("ü", 500)
	_, err := client.Register(t.Context(), endpoint(long))
	if err == nil || !strings.Contains(err.Error(), "want at most 2048") {
		t.Errorf("register: %v", err)
	}
	if _, err := client.List(t.Context(), inNamespace(long)); err == nil || !strings.Contains(err.Error(), "want at most 2048") {
		t.Errorf("list: %v", err)
	}
	fits := strings.Repeat("ü", 320)
	register(t, client, 1, endpoint(fits))
	if list, err := client.List(t.Context(), inNamespace(fits)); err != nil || len(list) != 1 {
		t.Errorf("a long name is listed %d times, %v", len(list), err)
	}
}
