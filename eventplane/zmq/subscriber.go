//go:build cgo && !nozmq

package zmq

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/rawzmq"
)

// Subscriber receives the messages of one subject from all endpoints that it is
// connected to, over a single socket. It implements driver.Subscriber and
// driver.Connector. Next must be called by one goroutine at a time; all other
// methods are safe for concurrent use.
type Subscriber struct {
	zc       *Context
	socket   *rawzmq.Socket   // of the loop
	receiver *rawzmq.Receiver // of the loop
	subject  string
	queue    *driver.Queue[item]
	blocks   bool // while the queue is full
	loop     *socketLoop
	close    func() error
}

// newSubscriber takes ownership of the socket, also when it fails.
func newSubscriber(c *Context, socket *rawzmq.Socket, subject string, queue driver.QueueOptions) (*Subscriber, error) {
	receiver, err := socket.NewReceiver()
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	s := &Subscriber{zc: c, socket: socket, receiver: receiver, subject: subject, queue: driver.NewQueue[item](queue), blocks: queue.Overflow == driver.Block}
	s.close = sync.OnceValue(s.closeAll)
	if s.loop, err = newSocketLoop(c, socket, nil); err != nil {
		receiver.Close()
		return nil, errors.Join(err, socket.Close())
	}
	s.loop.start(s.receive)
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
		Subject:     s.subject,
		PublisherID: it.publisherID,
		Sequence:    it.sequence,
		HasIdentity: true,
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
func (s *Subscriber) Connect(endpoint string) error { return s.loop.connect(endpoint) }

// Disconnect removes an endpoint. Messages that its peer has already sent are
// not lost: the connection ends a second later, or when the peer ends it.
func (s *Subscriber) Disconnect(endpoint string) error { return s.loop.disconnect(endpoint) }

// Ready blocks until the handshakes with all endpoints that the subscriber is
// connected to are done, or ctx is done. Without endpoints it returns at once.
// Peers receive the subscription a moment later: messages that they publish in
// between are missed.
func (s *Subscriber) Ready(ctx context.Context) error { return s.loop.ready(ctx) }

// Close implements driver.Subscriber.
func (s *Subscriber) Close() error { return s.close() }

func (s *Subscriber) closeAll() error {
	s.queue.Close(driver.ErrClosed)
	s.zc.remove(s)
	s.loop.stop()
	s.receiver.Close()
	if err := s.socket.Close(); err != nil {
		return fmt.Errorf("zmq: close the subscriber: %w", err)
	}
	return nil
}
