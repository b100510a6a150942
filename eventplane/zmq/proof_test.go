//go:build cgo && !nozmq

package zmq_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/latencyproxy"
	"github.com/dynplane/dynplane/internal/wait"
	"github.com/dynplane/dynplane/internal/waittest"
)

// delayed returns an endpoint that leads to another, with a delay in each direction.
func delayed(t testing.TB, endpoint string, delay time.Duration) (*latencyproxy.Proxy, string) {
	t.Helper()
	proxy, err := latencyproxy.Start(strings.TrimPrefix(endpoint, "tcp://"), delay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Close(); err != nil {
			t.Error(err)
		}
	})
	return proxy, "tcp://" + proxy.Addr()
}

// nextKind returns the next message of a kind.
func nextKind(t testing.TB, sub *zmqdriver.Subscriber, kind driver.Kind) driver.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	for {
		var m driver.Message
		if err := sub.Next(ctx, &m); err != nil {
			t.Fatalf("waiting for a message of kind %d: %v", kind, err)
		}
		if m.Kind == kind {
			return m
		}
	}
}

func publish(t testing.TB, pub *zmqdriver.Publisher, m driver.Message) {
	t.Helper()
	m.Subject = "kv-events"
	if err := pub.Publish(t.Context(), &m); err != nil {
		t.Fatal(err)
	}
}

// TestNothingIsLostToJoining has new subscribers that receive the first event which is
// published when they are ready, and all after it.
func TestNothingIsLostToJoining(t *testing.T) {
	t.Parallel()
	const near, far = 0, 10 * time.Millisecond
	for name, c := range map[string]struct {
		brokers, rounds int
		delay           time.Duration
		busy            bool // other events are published meanwhile
	}{
		"direct":                 {rounds: 300},
		"direct, busy":           {rounds: 300, busy: true},
		"direct, far":            {rounds: 20, delay: far},
		"direct, far and busy":   {rounds: 20, delay: far, busy: true},
		"a broker":               {rounds: 200, brokers: 1},
		"a broker, busy":         {rounds: 200, brokers: 1, busy: true},
		"a broker, far":          {rounds: 20, brokers: 1, delay: far},
		"two brokers, far, busy": {rounds: 20, brokers: 2, delay: far, busy: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRound(t, c.brokers, c.delay)
			if c.busy {
				defer r.publishAll(t)()
			}
			for range c.rounds {
				r.join(t, c.busy)
			}
		})
	}
}

// round is a publisher, and the endpoints for its subscribers.
type round struct {
	zc        *zmqdriver.Context
	pub       *zmqdriver.Publisher
	xsub, sub []string // endpoints for subscribers
	next      atomic.Uint64
}

func newRound(t *testing.T, brokers int, delay time.Duration) *round {
	t.Helper()
	opts := zmqdriver.Options{}
	if brokers > 0 {
		opts = zmqdriver.WithoutAssuming(opts)
	}
	r := &round{zc: open(t, opts)}
	far := func(endpoint string) string {
		if delay > 0 {
			_, endpoint = delayed(t, endpoint, delay)
		}
		return endpoint
	}
	if brokers == 0 {
		r.pub = directPublisher(t, r.zc)
		r.sub = []string{far(r.pub.Endpoint())}
		return r
	}
	r.pub = brokerPublisher(t, r.zc, "kv-events")
	for range brokers {
		b := startBroker(t)
		r.xsub, r.sub = append(r.xsub, far(b.XSubEndpoint())), append(r.sub, far(b.XPubEndpoint()))
		connect(t, r.pub, far(b.XSubEndpoint()))
	}
	return r
}

// publishAll publishes until the function that it returns is called.
func (r *round) publishAll(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			m := driver.Message{Subject: "kv-events", PublisherID: 1, Sequence: r.next.Load(), Body: make([]byte, 64)}
			if err := r.pub.Publish(context.Background(), &m); err != nil {
				ended <- err
				return
			}
			r.next.Add(1)
			if m.Sequence%20 == 0 && wait.Sleep(ctx, time.Millisecond) != nil {
				break
			}
		}
		ended <- nil
	}()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// join checks that a new subscriber receives an event that is published once both
// sides are ready.
func (r *round) join(t *testing.T, busy bool) {
	t.Helper()
	sub := subscribe(t, r.zc, "kv-events")
	for _, endpoint := range r.xsub {
		if err := sub.ConnectProbe(endpoint); err != nil {
			t.Fatal(err)
		}
	}
	for _, endpoint := range r.sub {
		if len(r.xsub) > 0 {
			connect(t, sub, endpoint)
		} else if err := sub.ConnectProving(endpoint); err != nil {
			t.Fatal(err)
		}
	}
	awaitReady(t, sub)
	awaitReady(t, r.pub)
	want := r.next.Load()
	if busy {
		want++ // the publisher may be publishing this one
	} else {
		publish(t, r.pub, driver.Message{PublisherID: 1, Sequence: r.next.Add(1) - 1})
	}
	if m := nextKind(t, sub, driver.Event); m.Sequence > want {
		t.Errorf("the first event is %d, want %d at most", m.Sequence, want)
	}
	if err := sub.Close(); err != nil {
		t.Error(err)
	}
}

// TestReadyTellsTheNextSequence checks what subscribers learn of a direct publisher.
func TestReadyTellsTheNextSequence(t *testing.T) {
	t.Parallel()
	zc := open(t, zmqdriver.Options{})
	pub, err := zc.DirectPublisher("127.0.0.1", "kv-events", 7)
	if err != nil {
		t.Fatal(err)
	}
	for _, next := range []uint64{0, 1, 42} {
		if next > 0 {
			publish(t, pub, driver.Message{PublisherID: 7, Sequence: next - 1})
		}
		sub := subscribe(t, zc, "kv-events")
		connect(t, sub, pub.Endpoint())
		if m := nextKind(t, sub, driver.Ready); m.PublisherID != 7 || m.Sequence != next || !m.HasIdentity || m.Body != nil {
			t.Errorf("got %+v, want publisher 7 and sequence %d", m, next)
		}
	}
}

// TestEveryReconnectIsProved cuts a connection and counts what is lost meanwhile by
// the sequences of the proofs.
func TestEveryReconnectIsProved(t *testing.T) {
	t.Parallel()
	zc := open(t, zmqdriver.Options{})
	pub, sub := directPublisher(t, zc), subscribe(t, zc, "kv-events")
	proxy, endpoint := delayed(t, pub.Endpoint(), time.Millisecond)
	if err := sub.ConnectProving(endpoint); err != nil {
		t.Fatal(err)
	}
	nextKind(t, sub, driver.Ready)
	awaitReady(t, sub)
	for i := range uint64(20) {
		proxy.Cut()
		waittest.Eventually(t, "the end of the connection is detected", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			return sub.Ready(ctx) != nil
		})
		publish(t, pub, driver.Message{PublisherID: 1, Sequence: 2 * i})
		proxy.Resume()
		awaitReady(t, sub)
		publish(t, pub, driver.Message{PublisherID: 1, Sequence: 2*i + 1})
		if m := nextKind(t, sub, driver.Ready); m.Sequence != 2*i+1 {
			t.Fatalf("the proof is for %d, want %d", m.Sequence, 2*i+1)
		}
		if m := nextKind(t, sub, driver.Event); m.Sequence != 2*i+1 {
			t.Fatalf("got event %d, want %d", m.Sequence, 2*i+1)
		}
	}
}

func TestManySubscribersOfOnePublisher(t *testing.T) {
	t.Parallel()
	zc := open(t, zmqdriver.WithoutAssuming(zmqdriver.Options{}))
	pub := directPublisher(t, zc)
	const n = 500
	subs := make([]*zmqdriver.Subscriber, n)
	for i := range subs {
		subs[i] = subscribe(t, zc, "kv-events")
		connect(t, subs[i], pub.Endpoint())
	}
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	if err := pub.WaitSubscribers(ctx, n); err != nil {
		t.Fatal(err)
	}
	awaitReady(t, pub)
	publish(t, pub, driver.Message{PublisherID: 1, Sequence: 5})
	for _, sub := range subs {
		awaitReady(t, sub)
		if m := nextKind(t, sub, driver.Event); m.Sequence != 5 {
			t.Fatalf("got event %d, want 5", m.Sequence)
		}
	}
	short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	if err := pub.WaitSubscribers(short, n+1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%d subscribers of %d: %v", n+1, n, err)
	}
	for _, sub := range subs[:n-1] {
		if err := sub.Close(); err != nil {
			t.Error(err)
		}
	}
	waittest.Eventually(t, "one subscriber is left", func() bool {
		short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer stop()
		return pub.WaitSubscribers(short, 2) != nil
	})
	if err := pub.WaitSubscribers(ctx, 1); err != nil {
		t.Error(err)
	}
	if err := brokerPublisher(t, zc, "kv-events").WaitSubscribers(ctx, 1); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("subscribers of brokers: %v, want ErrUnsupported", err)
	}
}

func TestTicks(t *testing.T) {
	t.Parallel()
	for _, brokers := range []int{0, 1} {
		r := newRound(t, brokers, 0)
		sub, other := subscribe(t, r.zc, "kv-events"), subscribe(t, r.zc, "kv-event")
		for _, s := range []*zmqdriver.Subscriber{sub, other} {
			for _, endpoint := range r.xsub {
				if err := s.ConnectProbe(endpoint); err != nil {
					t.Fatal(err)
				}
			}
			connect(t, s, r.sub[0])
			awaitReady(t, s)
		}
		awaitReady(t, r.pub)
		publish(t, r.pub, driver.Message{Kind: driver.Tick, PublisherID: 1, Sequence: 9})
		if m := nextKind(t, sub, driver.Tick); m.PublisherID != 1 || m.Sequence != 9 || m.Body != nil || m.Subject != "kv-events" {
			t.Errorf("got %+v, want sequence 9 of publisher 1", m)
		}
		m := driver.Message{Kind: driver.Tick, Subject: "kv-event", PublisherID: 1, Sequence: 3}
		if err := r.pub.Publish(t.Context(), &m); err != nil {
			t.Fatal(err)
		}
		if m := nextKind(t, other, driver.Tick); m.Sequence != 3 {
			t.Errorf("got the tick %d of a longer subject, want 3", m.Sequence)
		}
	}
}
