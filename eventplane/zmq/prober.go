//go:build cgo && !nozmq

package zmq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// prober proves that the brokers of a subscriber have its subscriptions: it publishes
// on the topic of its probe to them, as long as there are connections on which that
// has not arrived. Since brokers pass on what they receive to those that have
// subscribed to it, no broker has to be distinguished from another.
type prober struct {
	subscriber *Subscriber
	stop       context.CancelFunc
	running    sync.WaitGroup // the goroutine

	// The lock of the subscriber's loop protects the following.
	endpoints map[string]struct{}
	changes   int // of endpoints, and of the topic
	started   bool
}

// noPublisher is the publisher id of what a prober publishes.
const noPublisher = 0

// The pause between two messages of a prober doubles from minProbePause to
// maxProbePause.
const (
	minProbePause = 2 * time.Millisecond
	maxProbePause = 200 * time.Millisecond
)

func newProber(s *Subscriber) *prober {
	return &prober{subscriber: s, endpoints: map[string]struct{}{}, stop: func() {}}
}

// ConnectProbe adds the XSUB endpoint of a broker whose XPUB endpoint is passed to
// Connect, before or after it. The subscriber uses it to prove, for Ready, that the
// broker has its subscription. A broker through which that cannot be proved is
// assumed to have it a second after the handshake.
func (s *Subscriber) ConnectProbe(endpoint string) error {
	p := s.prober
	err := s.loop.use(func() error {
		p.endpoints[endpoint] = struct{}{}
		p.changes++
		s.connections.assumeAfter = max(s.zc.opts.assumeAfter, assumeBrokerAfter)
		if !p.started {
			p.started = true
			var ctx context.Context
			ctx, p.stop = context.WithCancel(context.Background())
			p.running.Go(func() { p.run(ctx) })
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("zmq: connect to %q: %w", endpoint, err)
	}
	return nil
}

// DisconnectProbe removes the XSUB endpoint of a broker.
func (s *Subscriber) DisconnectProbe(endpoint string) error {
	err := s.loop.use(func() error {
		delete(s.prober.endpoints, endpoint)
		s.prober.changes++
		return nil
	})
	if err != nil {
		return fmt.Errorf("zmq: disconnect from %q: %w", endpoint, err)
	}
	return nil
}

func (p *prober) run(ctx context.Context) {
	for p.needed(ctx) == nil {
		if err := p.prove(ctx); err != nil && ctx.Err() == nil {
			p.subscriber.zc.opts.Logger.Debug("zmq: probing brokers failed", "error", err)
			_ = p.await(ctx, maxProbePause, func() bool { return false })
		}
	}
}

// needed blocks until there is something to prove.
func (p *prober) needed(ctx context.Context) error {
	return p.subscriber.loop.await(ctx, func() bool {
		return len(p.endpoints) > 0 && len(p.subscriber.connections.unproved) > 0
	})
}

// prove publishes to the brokers until all connections are proved or the brokers
// have changed.
func (p *prober) prove(ctx context.Context) (err error) {
	s := p.subscriber
	s.loop.mu.Lock()
	endpoints, changes, topic := slices.Collect(maps.Keys(p.endpoints)), p.changes, s.probe
	s.loop.mu.Unlock()
	pub, err := s.zc.BrokerPublisher(topic)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pub.Close()) }()
	for _, endpoint := range endpoints {
		err = errors.Join(err, pub.Connect(endpoint)) // one that is malformed must not stop the others
	}
	m := driver.Message{Subject: topic, PublisherID: noPublisher, Body: s.zc.opts.ControlBody(nil, noPublisher, 0, 0)}
	for pause := minProbePause; ; pause = min(2*pause, maxProbePause) {
		if failed := pub.Publish(ctx, &m); failed != nil {
			return failed
		}
		done := p.await(ctx, pause, func() bool { return len(s.connections.unproved) == 0 || p.changes != changes })
		if done == nil || !errors.Is(done, context.DeadlineExceeded) {
			return err
		}
	}
}

// await is that of the loop, for a time.
func (p *prober) await(ctx context.Context, d time.Duration, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return p.subscriber.loop.await(ctx, done)
}

// close ends the goroutine and waits for it. The loop must have been stopped.
func (p *prober) close() {
	p.stop()
	p.running.Wait()
}
