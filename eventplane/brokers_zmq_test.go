//go:build cgo && !nozmq

package eventplane_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/waittest"
)

// runBroker runs a broker until stop is called or the test ends.
func runBroker(t *testing.T, opts broker.Options) (b *broker.Broker, stop func()) {
	t.Helper()
	waittest.Eventually(t, "the broker can bind", func() bool {
		var err error
		b, err = broker.New(opts)
		return err == nil
	})
	ended := make(chan error, 1)
	go func() { ended <- b.Run(context.Background()) }()
	stop = sync.OnceFunc(func() {
		must(t, b.Close())
		if err := <-ended; !errors.Is(err, broker.ErrClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return b, stop
}

func configOf(b *broker.Broker) eventplane.BrokerConfig {
	return eventplane.BrokerConfig{XSub: []string{b.XSubEndpoint()}, XPub: []string{b.XPubEndpoint()}}
}

// TestBrokersAreFollowedForLife registers and unregisters brokers that keep running:
// publishers and subscribers connect to them and disconnect.
func TestBrokersAreFollowedForLife(t *testing.T) {
	t.Parallel()
	ctx, m := patient(t), memory.New()
	cfg := directConfig()
	cfg.Broker.Discover = true
	one, _ := runBroker(t, broker.Options{})
	two, _ := runBroker(t, broker.Options{})
	d := newDiscovery(t, m)
	register := func(id uint64, b *broker.Broker) *discovery.Registration {
		reg, err := d.RegisterAs(ctx, id, eventplane.BrokerChannel(backend.Namespace, configOf(b)))
		must(t, err)
		return reg
	}
	first := register(1, one)
	pub, err := newPlane(t, cfg, newDiscovery(t, m)).Publisher(ctx, backend, "kv-events")
	must(t, err)
	sub, err := newPlane(t, cfg, newDiscovery(t, m)).Subscriber(ctx, backend, "kv-events")
	must(t, err)
	must(t, sub.Ready(ctx))
	must(t, pub.Ready(ctx))
	must(t, pub.Publish(ctx, "ready"))
	ev, err := sub.Next(ctx)
	must(t, err)
	if ev.Sequence != 0 {
		t.Errorf("the first event is %d, want 0", ev.Sequence)
	}
	for range 3 {
		second := register(2, two)
		passes(t, pub, sub, two, true)
		must(t, first.Unregister(ctx))
		passes(t, pub, sub, one, false)
		first = register(1, one)
		passes(t, pub, sub, one, true)
		must(t, second.Unregister(ctx))
		passes(t, pub, sub, two, false)
	}
}

// passes waits until a broker relays the events of pub to sub besides another one, or
// none, while sub receives them all.
func passes(t *testing.T, pub *eventplane.Publisher, sub *eventplane.Subscriber, b *broker.Broker, want bool) {
	t.Helper()
	waittest.Eventually(t, "a broker is used as it is registered", func() bool {
		before, duplicates := b.Stats().Messages, sub.Stats().Duplicates
		for range 10 {
			must(t, pub.Publish(patient(t), "event"))
			ev, err := sub.Next(patient(t))
			must(t, err)
			if ev.Missed != 0 {
				t.Fatalf("missed %d events before %d", ev.Missed, ev.Sequence)
			}
		}
		if want {
			return sub.Stats().Duplicates > duplicates+5
		}
		return b.Stats().Messages == before
	})
}

// TestOneBrokerComesBack kills both brokers; one of them restarts.
func TestOneBrokerComesBack(t *testing.T) {
	t.Parallel()
	one, stopOne := runBroker(t, broker.Options{})
	two, stopTwo := runBroker(t, broker.Options{})
	cfg, ctx, m := directConfig(), patient(t), memory.New()
	cfg.Broker.XSub = []string{one.XSubEndpoint(), two.XSubEndpoint()}
	cfg.Broker.XPub = []string{two.XPubEndpoint(), one.XPubEndpoint()} // in another order
	pub, err := newPlane(t, cfg, newDiscovery(t, m)).Publisher(ctx, backend, "kv-events")
	must(t, err)
	sub, err := newPlane(t, cfg, newDiscovery(t, m)).Subscriber(ctx, backend, "kv-events")
	must(t, err)
	must(t, sub.Ready(ctx))
	must(t, pub.Ready(ctx))
	stopOne()
	stopTwo()
	waittest.Eventually(t, "both sides have detected the end", func() bool {
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		return pub.Ready(short) != nil && sub.Ready(short) != nil
	})
	runBroker(t, broker.Options{XSubBind: one.XSubEndpoint(), XPubBind: one.XPubEndpoint()})
	awaitEvent(t, sub, pub)
}

// TestControlMessagesAreEnvelopes has a SUB of another library that subscribes to all
// topics.
func TestControlMessagesAreEnvelopes(t *testing.T) {
	t.Parallel()
	ctx, d := patient(t), newDiscovery(t, memory.New())
	plane := newPlane(t, directConfig(), d)
	pub, err := plane.Publisher(ctx, backend, "kv-events")
	must(t, err)
	endpoint := pub.Registration().Instance().Spec.(discovery.EventChannel).Transport.Address()
	zctx, err := zmq4.NewContext()
	must(t, err)
	s, err := zctx.NewSocket(zmq4.SUB)
	must(t, err)
	t.Cleanup(func() { must(t, errors.Join(s.Close(), zctx.Term())) })
	must(t, errors.Join(s.SetLinger(0), s.SetRcvtimeo(waittest.Patience), s.SetSubscribe(""), s.Connect(endpoint)))
	// Subscribers come until the other one receives an answer to them.
	for received := false; !received; {
		must(t, ctx.Err())
		sub, err := plane.Subscriber(ctx, backend, "kv-events")
		must(t, err)
		must(t, sub.Ready(ctx))
		must(t, pub.Publish(ctx, "event"))
		frames, err := s.RecvMessageBytes(0)
		must(t, err)
		var env codec.Envelope
		must(t, env.Decode(frames[3][5:]))
		received = env.Topic != "kv-events"
		must(t, sub.Shutdown(ctx))
	}
}
