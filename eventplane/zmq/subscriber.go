//go:build cgo && !nozmq

package zmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/rawzmq"
)

// Subscriber receives the messages of one subject from all endpoints that it is
// connected to, over a single socket. It implements driver.Subscriber and
// driver.Connector. Next must be called by one goroutine at a time; all other
// methods are safe for concurrent use.
type Subscriber struct {
	zc          *Context
	subject     string
	probe       string // topic of this subscriber only; protected by the lock of the loop
	queue       *driver.Queue[item]
	blocks      bool // while the queue is full
	loop        *socketLoop
	connections *connections // of the loop
	prober      *prober
	replays     *replayClient
	proved      []int // reused: connections that a probe has arrived on, while receive runs
	close       func() error
}

// newSubscriber takes ownership of the socket, also when it fails. libzmq sends the
// subscriptions, on each connection anew, in the order of their bytes: when the
// publisher has that of the probe, it has that of the subject.
func newSubscriber(c *Context, socket *rawzmq.Socket, subject string, queue driver.QueueOptions) (*Subscriber, error) {
	connections := newConnections(socket, c.opts.Logger)
	connections.assumeAfter = c.opts.assumeAfter
	loop, err := newSocketLoop(socket, connections, connectionEvents)
	if err != nil {
		return nil, err
	}
	s := &Subscriber{
		zc: c, subject: subject, probe: newProbe(), queue: driver.NewQueue[item](queue),
		blocks: queue.Overflow == driver.Block, loop: loop, connections: connections,
	}
	connections.renew = s.renewProbe
	s.queue.Announce(item.announce)
	s.prober, s.replays = newProber(s), newReplayClient(c)
	s.close = sync.OnceValue(s.closeAll)
	for _, topic := range []string{subject, s.probe, tickTopic + subject} {
		err = errors.Join(err, socket.Subscribe(topic))
	}
	if err != nil {
		return nil, errors.Join(err, loop.close())
	}
	if s.blocks {
		loop.pause = s.awaitRoom
	}
	loop.start(s.receive)
	return s, nil
}

// Next implements driver.Subscriber. After Close it returns driver.ErrClosed,
// even if messages were waiting.
func (s *Subscriber) Next(ctx context.Context, m *driver.Message) error {
	it, err := s.queue.Pop(ctx)
	if err != nil {
		return err
	}
	if it.malformed != nil {
		return it.malformed
	}
	*m = driver.Message{
		Kind:        it.kind,
		Subject:     s.subject,
		PublisherID: it.publisherID,
		Sequence:    it.sequence,
		HasIdentity: true,
		PublishedAt: it.publishedAt,
		Body:        it.body,
	}
	return nil
}

// Dropped returns the number of messages that were received and dropped because
// Next was not called in time. Messages that publishers or brokers dropped are
// not included.
func (s *Subscriber) Dropped() uint64 { return s.queue.Dropped() }

// Queued returns the number of messages that wait for Next.
func (s *Subscriber) Queued() int { return s.queue.Len() }

// Connect adds the endpoint of a publisher, or the XPUB endpoint of a broker.
// It only blocks to look up a name, for a second at most: libzmq connects, and
// reconnects when the connection breaks, in the background.
func (s *Subscriber) Connect(endpoint string) error {
	return s.loop.connect(s.connections, endpoint, false)
}

// ConnectProving is like Connect, for a publisher of DirectPublisher: Ready never
// assumes that it has the subscription, but waits until it answers.
func (s *Subscriber) ConnectProving(endpoint string) error {
	return s.loop.connect(s.connections, endpoint, true)
}

// renewProbe replaces the topic of the probe on all connections, so that answers to
// the former one count no more. The loop calls it with its lock held.
func (s *Subscriber) renewProbe() {
	probe := newProbe()
	if err := s.loop.socket.Subscribe(probe); err != nil {
		s.zc.opts.Logger.Debug("zmq: renewing the probe failed", "error", err)
		return
	}
	_ = s.loop.socket.Unsubscribe(s.probe) // it was subscribed to
	s.probe = probe
	s.prober.changes++
	s.loop.checkNow()
}

// Disconnect removes an endpoint. Messages that its peer has already sent are
// not lost: the connection ends a second later, or when the peer ends it.
func (s *Subscriber) Disconnect(endpoint string) error {
	err := s.loop.use(func() error { s.connections.disconnectLater(endpoint, time.Now()); return nil })
	if err != nil {
		return fmt.Errorf("zmq: disconnect from %q: %w", endpoint, err)
	}
	return nil
}

// Ready blocks until all endpoints that the subscriber is connected to have its
// subscription, or ctx is done: messages that are published from then on arrive.
// Without endpoints it returns at once. After a connection was lost and opened again,
// the peer has to prove anew that it has the subscription.
//
// A publisher of this module answers the subscription. If it is not known to be one,
// see ConnectProving, and does not answer, it is assumed to have the subscription 100 ms after the handshake, or later if
// the handshake was slow. Brokers do not answer either: see ConnectProbe.
func (s *Subscriber) Ready(ctx context.Context) error {
	return s.loop.await(ctx, s.connections.settled)
}

// Close implements driver.Subscriber.
func (s *Subscriber) Close() error { return s.close() }

func (s *Subscriber) closeAll() error {
	s.queue.Close(driver.ErrClosed)
	s.zc.remove(s)
	s.loop.stop() // first: ConnectProbe starts the prober no more
	s.prober.close()
	s.replays.close()
	if err := s.loop.close(); err != nil {
		return fmt.Errorf("zmq: close the subscriber: %w", err)
	}
	return nil
}
