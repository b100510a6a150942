//go:build cgo && !nozmq

package zmq

import (
	"context"
	"errors"
	"fmt"
	"sync"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// Subscriber receives the messages of one subject from all endpoints that it
// is connected to, over a single socket. It implements driver.Subscriber and
// driver.Connector. Next is for one goroutine at a time; all other methods are
// safe for concurrent use.
type Subscriber struct {
	zc       *Context
	socket   *zmq.Socket // the owner's
	receiver *receiver   // the owner's
	subject  string
	queue    *queue
	owner    *owner
	close    func() error
}

// newSubscriber takes the socket over, also when it fails.
func newSubscriber(c *Context, socket *zmq.Socket, subject string) (*Subscriber, error) {
	in, err := newReceiver(socket)
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	s := &Subscriber{zc: c, socket: socket, receiver: in, subject: subject, queue: newQueue(c.opts.QueueSize)}
	s.close = sync.OnceValue(s.closeAll)
	if s.owner, err = newOwner(c, socket, new(sync.Mutex), s.receive); err != nil {
		in.close()
		return nil, errors.Join(err, socket.Close())
	}
	return s, nil
}

// Next implements driver.Subscriber. After Close it returns driver.ErrClosed,
// whatever was still waiting.
func (s *Subscriber) Next(ctx context.Context, m *driver.Message) error {
	it, err := s.queue.pop(ctx)
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

// Dropped counts what was received and not taken by Next in time. What a
// publisher or broker dropped before is not known here.
func (s *Subscriber) Dropped() uint64 { return s.queue.dropped.Load() }

// Connect adds the endpoint of a publisher, or of a broker's XPUB side. It
// returns at once; the connection is made, and made again whenever it breaks,
// in the background.
func (s *Subscriber) Connect(endpoint string) error { return s.owner.connect(endpoint) }

// Disconnect removes an endpoint. What its peer has sent by then is not lost:
// the connection is ended a second later, or when the peer ends it.
func (s *Subscriber) Disconnect(endpoint string) error { return s.owner.disconnect(endpoint) }

// Ready blocks until the handshakes with all the endpoints that the subscriber
// is connected to are done, or ctx is. With none it returns at once. The
// subscription reaches the other side a moment later: what is published in
// between can still be missed.
func (s *Subscriber) Ready(ctx context.Context) error { return s.owner.live(ctx) }

// Close implements driver.Subscriber.
func (s *Subscriber) Close() error { return s.close() }

func (s *Subscriber) closeAll() error {
	s.queue.close(driver.ErrClosed)
	s.zc.forget(s)
	s.owner.stop()
	s.receiver.close()
	if err := s.socket.Close(); err != nil {
		return fmt.Errorf("zmq: close the subscriber: %w", err)
	}
	return nil
}
