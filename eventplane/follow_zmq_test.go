//go:build cgo && !nozmq

package eventplane_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/waittest"
)

// awaitEvent publishes until sub receives an event of pub.
func awaitEvent(tb testing.TB, sub *eventplane.Subscriber, pub *eventplane.Publisher) {
	tb.Helper()
	patient := patient(tb)
	for {
		must(tb, pub.Publish(patient, "probe"))
		ctx, cancel := context.WithTimeout(patient, 20*time.Millisecond)
		for {
			ev, err := sub.Next(ctx)
			if err == nil && ev.PublisherID == pub.ID() {
				cancel()
				return
			}
			if err != nil {
				break
			}
		}
		cancel()
		must(tb, patient.Err())
	}
}

func TestPublishersComeAndGo(t *testing.T) {
	t.Parallel()
	ctx, m := patient(t), memory.New()
	sub, err := newPlane(t, directConfig(), newDiscovery(t, m)).Subscriber(ctx, backend, "kv-events")
	must(t, err)
	must(t, sub.Ready(ctx))
	other := newPlane(t, directConfig(), newDiscovery(t, m))
	for range 3 {
		pub, err := other.Publisher(ctx, backend, "kv-events")
		must(t, err)
		awaitEvent(t, sub, pub)
		must(t, pub.Shutdown(ctx))
	}
	waittest.Eventually(t, "publishers that are gone leave nothing", func() bool {
		reading, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		_, _ = sub.Next(reading) // the last tick of each
		return len(sub.Stats().Publishers) == 0
	})
}

func TestSubscriberReceivesItsOwnScopeAndTopic(t *testing.T) {
	t.Parallel()
	for name, setup := range configs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := setup(t)
			ctx, d := patient(t), newDiscovery(t, memory.New())
			plane := newPlane(t, cfg, d)
			sub, err := plane.Subscriber(ctx, backend, "kv-events")
			must(t, err)
			var others []*eventplane.Publisher
			for _, scope := range []discovery.Scope{{Namespace: "dynamo"}, {Namespace: "dynamo", Component: "backend", Endpoint: "generate"}, {Namespace: "other", Component: "backend"}} {
				pub, err := plane.Publisher(ctx, scope, "kv-events")
				must(t, err)
				others = append(others, pub)
			}
			longer, err := plane.Publisher(ctx, backend, "kv-events2")
			must(t, err)
			for _, pub := range append(others, longer) {
				must(t, pub.Publish(ctx, "not for us"))
			}
			pub, err := plane.Publisher(ctx, backend, "kv-events")
			must(t, err)
			for range 10 {
				for _, other := range append(others, longer) {
					must(t, other.Publish(ctx, "not for us"))
				}
				awaitEvent(t, sub, pub)
			}
			if got := sub.Stats(); len(got.Publishers) != 1 || got.DecodeErrors != 0 {
				t.Errorf("stats %+v: want one publisher", got)
			}
		})
	}
}

// register announces a broker under an id, as zmq-broker does.
func (p *proxy) register(t *testing.T, d *discovery.Client, id uint64) *discovery.Registration {
	t.Helper()
	reg, err := d.RegisterAs(patient(t), id, eventplane.BrokerChannel(backend.Namespace, eventplane.BrokerConfig{
		XSub: []string{p.xsub}, XPub: []string{p.xpub},
	}))
	must(t, err)
	return reg
}

func TestBrokersComeAndGo(t *testing.T) {
	t.Parallel()
	ctx, m := patient(t), memory.New()
	cfg := directConfig()
	cfg.Broker.Discover = true
	sub, err := newPlane(t, cfg, newDiscovery(t, m)).Subscriber(ctx, backend, "kv-events")
	must(t, err)
	must(t, sub.Ready(ctx))
	pub, err := newPlane(t, cfg, newDiscovery(t, m)).Publisher(ctx, backend, "kv-events")
	must(t, err) // no broker yet

	d := newDiscovery(t, m)
	first := startProxy(t)
	first.register(t, d, 1)
	awaitEvent(t, sub, pub)

	second := startProxy(t) // the first restarts elsewhere
	reg := second.register(t, d, 1)
	first.stop()
	awaitEvent(t, sub, pub)

	third := startProxy(t)
	third.register(t, d, 3)
	must(t, reg.Unregister(ctx))
	second.stop()
	awaitEvent(t, sub, pub)
}

func TestNothingIsLostWithTheOneOfTwoBrokers(t *testing.T) {
	t.Parallel()
	doomed, other := startProxy(t), startProxy(t)
	p, ctx := connect(t, brokerConfig(doomed, other)), patient(t)
	// Until both paths are open.
	for p.sub.Stats().Duplicates == 0 {
		must(t, ctx.Err())
		p.probe(t)
	}
	const count = 5000
	received := make(chan error, 1)
	go func() {
		var err error
		for next := p.next; err == nil && next < p.next+count; next++ {
			var ev eventplane.Event
			if ev, err = p.sub.Next(ctx); err == nil && (ev.Sequence != next || ev.Missed != 0) {
				err = errors.New("out of order or missed")
			}
		}
		received <- err
	}()
	for i := range count {
		if i == count/2 {
			doomed.stop()
		}
		must(t, p.pub.Publish(ctx, i))
	}
	must(t, <-received)
	if got := p.sub.Stats(); got.Missed != 0 || got.Duplicates == 0 || got.OutOfOrder != 0 {
		t.Errorf("stats %+v: want duplicates and nothing missed", got)
	}
}

func TestIncompatibleChannelsAreCounted(t *testing.T) {
	t.Parallel()
	ctx, m := patient(t), memory.New()
	_, err := newPlane(t, brokerConfig(startProxy(t)), newDiscovery(t, m)).Publisher(ctx, backend, "kv-events")
	must(t, err)
	sub, err := newPlane(t, directConfig(), newDiscovery(t, m)).Subscriber(ctx, backend, "kv-events")
	must(t, err)
	must(t, sub.Ready(ctx))
	if got := sub.Stats().Incompatible; got != 1 {
		t.Errorf("%d incompatible channels: want 1", got)
	}
}

func TestMissingDiscoveryIsAnError(t *testing.T) {
	t.Parallel()
	ctx := patient(t)
	discovered := directConfig()
	discovered.Broker.Discover = true
	for name, cfg := range map[string]eventplane.Config{"direct": directConfig(), "discovered": discovered} {
		if _, err := newPlane(t, cfg, nil).Subscriber(ctx, backend, "kv-events"); !errors.Is(err, eventplane.ErrNoDiscovery) {
			t.Errorf("%s: %v: want ErrNoDiscovery", name, err)
		}
	}
	plane := newPlane(t, brokerConfig(startProxy(t)), nil)
	if _, err := plane.Subscriber(ctx, backend, "kv-events"); err != nil {
		t.Errorf("brokers by URL: %v", err)
	}
	if _, err := plane.Publisher(ctx, backend, "kv-events"); !errors.Is(err, eventplane.ErrNoDiscovery) {
		t.Errorf("publisher: %v: want ErrNoDiscovery", err)
	}
}

// TestQueueBytes has a subscriber that does not call Next receive more than its
// bound.
func TestQueueBytes(t *testing.T) {
	t.Parallel()
	const size, room, events = 1000, 10_000, 50
	cfg := directConfig()
	cfg.QueueBytes = room
	p, ctx := connect(t, cfg), patient(t)
	for range events {
		must(t, p.pub.PublishBytes(ctx, make([]byte, size)))
	}
	waittest.Eventually(t, "all events are received, and most are dropped", func() bool {
		return p.sub.Stats().Dropped >= events-room/size
	})
	kept := 0
	for end := false; !end; {
		must(t, p.pub.PublishBytes(ctx, []byte("end"))) // dropped while the queue is full
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		for ev, err := p.sub.Next(short); err == nil && !end; ev, err = p.sub.Next(short) {
			if end = len(ev.Payload) != size; !end {
				kept++
			}
		}
		cancel()
		must(t, ctx.Err())
	}
	if kept == 0 || kept*size > room {
		t.Errorf("%d events of %d bytes were kept: want at most %d bytes", kept, size, room)
	}
}
