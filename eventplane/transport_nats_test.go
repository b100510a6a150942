package eventplane_test

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/natsconn"
)

func dial(tb testing.TB, url string, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	nc, err := nats.Connect(url, opts...)
	must(tb, err)
	tb.Cleanup(nc.Close)
	return nc
}

// Publishers, subscribers and their client are shut down, one of each by the
// client only. The connection keeps working as if they had never existed.
func TestShutdownLeavesTheCallersConnection(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	nc, ctx := dial(t, srv.URL()), patient(t)
	own, err := nc.SubscribeSync("own")
	must(t, err)
	must(t, nc.Flush())
	subscriptions := srv.Server().NumSubscriptions()

	plane, err := eventplane.New(eventplane.Config{NATSConn: nc}, newDiscovery(t, memory.New()))
	must(t, err)
	for _, topic := range []string{"a", "b"} {
		sub, err := plane.Subscriber(ctx, backend, topic)
		must(t, err)
		must(t, sub.Ready(ctx))
		pub, err := plane.Publisher(ctx, backend, topic)
		must(t, err)
		must(t, pub.Publish(ctx, topic))
		ev, err := sub.Next(ctx)
		must(t, err)
		if ev.PublisherID != pub.ID() {
			t.Errorf("publisher %d: want %d", ev.PublisherID, pub.ID())
		}
		if topic == "a" {
			must(t, pub.Shutdown(ctx))
			must(t, sub.Shutdown(ctx))
		}
	}
	must(t, plane.Shutdown(ctx))

	if nc.Status() != nats.CONNECTED || nc.Stats().Reconnects != 0 || nc.NumSubscriptions() != 1 {
		t.Errorf("status %v, %d subscriptions: want connected, with the caller's one", nc.Status(), nc.NumSubscriptions())
	}
	waittest.Eventually(t, "the server has only the caller's subscription", func() bool {
		return srv.Server().NumSubscriptions() == subscriptions
	})
	must(t, nc.Publish("own", []byte("x")))
	_, err = own.NextMsgWithContext(ctx)
	must(t, err)
}

func TestNewRefusesACallersConnection(t *testing.T) {
	t.Parallel()
	url := natstest.Run(t).URL()
	closed, draining, open := dial(t, url), dial(t, url), dial(t, url)
	closed.Close()
	blocked, release := make(chan struct{}), make(chan struct{})
	_, err := draining.Subscribe("x", func(*nats.Msg) { close(blocked); <-release })
	must(t, err)
	must(t, draining.Publish("x", nil))
	<-blocked // a drain waits for the handler
	defer close(release)
	must(t, draining.Drain())

	for name, tc := range map[string]struct {
		cfg  eventplane.Config
		want error
	}{
		"closed":   {eventplane.Config{NATSConn: closed}, nats.ErrConnectionClosed},
		"draining": {eventplane.Config{NATSConn: draining}, nats.ErrConnectionDraining},
		"both":     {eventplane.Config{NATSConn: open, NATS: natsconn.Config{URL: url}}, nil},
	} {
		_, err := eventplane.New(tc.cfg, nil)
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: error %v: want %v", name, err, tc.want)
		}
	}
	if !open.IsConnected() {
		t.Error("a connection that was refused is no longer connected: want it untouched")
	}
}

// The connection is closed by its owner while the client uses it.
func TestACallersConnectionThatIsClosed(t *testing.T) {
	t.Parallel()
	nc, ctx, registry := dial(t, natstest.Run(t).URL()), patient(t), newDiscovery(t, memory.New())
	plane := newPlane(t, eventplane.Config{NATSConn: nc}, registry)
	pub, err := plane.Publisher(ctx, backend, "kv-events")
	must(t, err)
	sub, err := plane.Subscriber(ctx, backend, "kv-events")
	must(t, err)
	nc.Close()

	_, next := sub.Next(ctx)
	_, publisher := plane.Publisher(ctx, backend, "more")
	_, subscriber := plane.Subscriber(ctx, backend, "more")
	for name, err := range map[string]error{
		"Next": next, "Ready": sub.Ready(ctx), "Publish": pub.Publish(ctx, 1), "Publisher": publisher, "Subscriber": subscriber,
	} {
		if !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("%s: error %v: want ErrConnectionClosed", name, err)
		}
	}
	found, err := registry.List(ctx, discovery.Query{Kind: discovery.KindEventChannel})
	if err != nil || len(found) != 1 {
		t.Errorf("registered %v, %v: want only the first publisher", found, err)
	}
}

// While the server is away, events wait, whether the connection has a buffer of its
// own or not. They are sent after the reconnect.
func TestPublishWhileDisconnected(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]nats.Option{
		"buffered":   nil,
		"unbuffered": {nats.ReconnectBufSize(-1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := natstest.Run(t)
			opts := slices.Concat(opts, []nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond)})
			nc, ctx := dial(t, srv.URL(), opts...), patient(t)
			pub, err := newPlane(t, eventplane.Config{NATSConn: nc}, newDiscovery(t, memory.New())).Publisher(ctx, backend, "kv-events")
			must(t, err)

			srv.Stop()
			waittest.Eventually(t, "the connection is lost", nc.IsReconnecting)
			const count = 1000
			for i := range count {
				must(t, pub.Publish(ctx, i))
			}
			if got := pub.Stats(); got.Published != count || got.Pending != count {
				t.Errorf("stats %+v while disconnected: want %d published, all of them pending", got, count)
			}
			srv.Start()
			waittest.Eventually(t, "the events are sent", func() bool { return pub.Stats().Sent == count })
		})
	}
}

// A subscriber whose transport is a default would wait in vain for a publisher on
// another transport, so it logs one warning with the variable to set. A subscriber
// whose transport is configured does not watch the channels.
func TestSubscriberOfTheDefaultTransportWarnsOfAnother(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	ctx, registry := patient(t), memory.New()
	for id := range uint64(2) {
		_, err := newDiscovery(t, registry).RegisterAs(ctx, id, discovery.EventChannel{
			Scope: backend, Topic: "kv-events", Transport: discovery.ZMQ{Endpoint: "tcp://127.0.0.1:1"},
		})
		must(t, err)
	}
	for _, c := range []struct {
		transport string
		want      int
	}{{"", 2}, {discovery.TransportNATS, 0}} {
		var log logtest.Buffer
		cfg := eventplane.Config{
			Transport: c.transport, NATS: natsconn.Config{URL: srv.URL()},
			Logger: log.Logger(),
		}
		sub, err := newPlane(t, cfg, newDiscovery(t, registry)).Subscriber(ctx, backend, "kv-events")
		must(t, err)
		must(t, sub.Ready(ctx))
		waittest.Eventually(t, "the channels are counted", func() bool { return sub.Stats().Incompatible == c.want })
		if got := log.Count("DYN_EVENT_PLANE=zmq"); got != min(c.want, 1) {
			t.Errorf("transport %q: %d warnings, want %d:\n%s", c.transport, got, min(c.want, 1), log.String())
		}
	}
}

// TestPublisherOfTheDefaultTransportWarnsOfAnother covers events that no subscriber
// of the other publishers receives.
func TestPublisherOfTheDefaultTransportWarnsOfAnother(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	ctx, registry := patient(t), memory.New()
	_, err := newDiscovery(t, registry).RegisterAs(ctx, 1, discovery.EventChannel{
		Scope: backend, Topic: "kv-events", Transport: discovery.ZMQ{Endpoint: "tcp://127.0.0.1:1"},
	})
	must(t, err)
	var log logtest.Buffer
	plane := newPlane(t, eventplane.Config{NATS: natsconn.Config{URL: srv.URL()}, Logger: log.Logger()}, newDiscovery(t, registry))
	_, err = plane.Publisher(ctx, backend, "kv-events")
	must(t, err)
	waittest.Eventually(t, "a warning names the variable", func() bool { return log.Count("DYN_EVENT_PLANE=zmq") == 1 })
}

// TestUnknownTransportIsIncompatible covers a transport that has the name of a
// known one, but not its form.
func TestUnknownTransportIsIncompatible(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	ctx, registry := patient(t), memory.New()
	_, err := newDiscovery(t, registry).RegisterAs(ctx, 1, discovery.EventChannel{
		Scope: backend, Topic: "kv-events", Transport: discovery.UnknownTransport{Raw: json.RawMessage(`{"kind":"nats"}`)},
	})
	must(t, err)
	plane := newPlane(t, eventplane.Config{NATS: natsconn.Config{URL: srv.URL()}}, newDiscovery(t, registry))
	sub, err := plane.Subscriber(ctx, backend, "kv-events")
	must(t, err)
	waittest.Eventually(t, "the channel is counted", func() bool { return sub.Stats().Incompatible == 1 })
}
