// Package nats moves the event plane's messages over NATS core subjects.
//
// It is a driver: applications use package eventplane. It stands on a
// connection that the caller owns, dials nothing and closes nothing:
//
//	pub := nats.NewPublisher(nc)
//	sub, err := nats.Subscribe(nc, "namespace.dynamo.component.backend.kv-events")
//
// A message is the encoded envelope as the payload of one NATS message, with
// no headers, no reply subject and no queue group, as NVIDIA Dynamo's runtime
// sends it. Delivery is at most once. Import the package as natsdriver beside
// nats.go.
package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/eventplane/driver"
)

const (
	// What a subscription keeps while the application does not call Next.
	// What comes on top is dropped, the newest first, and counted.
	pendingMessages = 64 << 10
	pendingBytes    = 64 << 20

	// closeFlush bounds how long Publisher.Close waits for the server.
	closeFlush = 2 * time.Second

	// flushTry bounds one attempt of Ready; after it, or after the connection
	// was lost, it tries again.
	flushTry  = 2 * time.Second
	flushWait = 50 * time.Millisecond
)

// Publisher sends messages on a connection. It implements driver.Publisher.
type Publisher struct {
	nc     *nats.Conn
	closed bool
}

var _ driver.Publisher = (*Publisher)(nil)

// NewPublisher makes a publisher on nc, which stays the caller's.
func NewPublisher(nc *nats.Conn) *Publisher { return &Publisher{nc: nc} }

// Publish implements driver.Publisher. A message larger than the server's
// max_payload is refused, and so is any while the connection is lost and does
// not buffer.
func (p *Publisher) Publish(ctx context.Context, m *driver.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.closed {
		return driver.ErrClosed
	}
	err := p.nc.Publish(m.Subject, m.Body)
	if errors.Is(err, nats.ErrMaxPayload) {
		return fmt.Errorf("nats: message of %d bytes on %q: the server takes %d: %w", len(m.Body), m.Subject, p.nc.MaxPayload(), err)
	}
	if err != nil {
		return fmt.Errorf("nats: publish on %q: %w", m.Subject, err)
	}
	return nil
}

// Close implements driver.Publisher: it waits, for two seconds at most, until
// the server has what was published.
func (p *Publisher) Close() error {
	if p.closed {
		return nil
	}
	p.closed = true
	if !p.nc.IsConnected() {
		// There is nothing to wait for. If the connection buffers, it sends
		// what is buffered once it has reconnected.
		return nil
	}
	if err := p.nc.FlushTimeout(closeFlush); err != nil {
		return fmt.Errorf("nats: flush at the end: %w", err)
	}
	return nil
}

// Subscriber receives the messages of one subject. It implements
// driver.Subscriber.
type Subscriber struct {
	nc      *nats.Conn
	sub     *nats.Subscription
	subject string
	once    sync.Once
	closed  atomic.Bool
	dropped atomic.Uint64 // as far as it was read
}

var _ driver.Subscriber = (*Subscriber)(nil)

// Subscribe subscribes to subject on nc, which stays the caller's. It does not
// wait for the server; see Ready.
func Subscribe(nc *nats.Conn, subject string) (*Subscriber, error) {
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		return nil, fmt.Errorf("nats: subscribe to %q: %w", subject, err)
	}
	if err := sub.SetPendingLimits(pendingMessages, pendingBytes); err != nil {
		return nil, errors.Join(fmt.Errorf("nats: limits of the subscription to %q: %w", subject, err), sub.Unsubscribe())
	}
	return &Subscriber{nc: nc, sub: sub, subject: subject}, nil
}

// Next implements driver.Subscriber.
func (s *Subscriber) Next(ctx context.Context, m *driver.Message) error {
	for {
		if s.closed.Load() {
			return driver.ErrClosed
		}
		msg, err := s.sub.NextMsgWithContext(ctx)
		if err == nil {
			*m = driver.Message{Subject: msg.Subject, Body: msg.Data}
			return nil
		}
		switch {
		case errors.Is(err, nats.ErrSlowConsumer):
			// Said once when messages begin to be dropped. Dropped counts
			// them, and what is pending can still be read.
		case errors.Is(err, nats.ErrNoResponders):
			// nats.go takes an empty message with this status for an answer.
			return &driver.FrameError{Subject: s.subject, Reason: "a status without a body, want an envelope"}
		case ctx.Err() != nil:
			return ctx.Err()
		case s.closed.Load():
			return driver.ErrClosed
		default:
			return fmt.Errorf("nats: receive on %q: %w", s.subject, err)
		}
	}
}

// Ready blocks until the server has the subscription: what is published from
// then on is heard. While the connection is lost it waits for the next.
func (s *Subscriber) Ready(ctx context.Context) error {
	for {
		err := s.flush(ctx)
		switch {
		case s.closed.Load():
			return driver.ErrClosed
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case s.nc.IsClosed():
			return fmt.Errorf("nats: subscription to %q: %w", s.subject, err)
		}
		if err := sleep(ctx, flushWait); err != nil {
			return err
		}
	}
}

func (s *Subscriber) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushTry)
	defer cancel()
	return s.nc.FlushWithContext(ctx)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Dropped implements driver.Subscriber.
func (s *Subscriber) Dropped() uint64 {
	if n, err := s.sub.Dropped(); err == nil && n > 0 {
		s.dropped.Store(uint64(n))
	}
	return s.dropped.Load()
}

// Close implements driver.Subscriber.
func (s *Subscriber) Close() error {
	var err error
	s.once.Do(func() {
		s.Dropped() // nats.go forgets it with the subscription
		s.closed.Store(true)
		err = s.sub.Unsubscribe()
		if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrBadSubscription) {
			err = nil // gone with its connection
		}
	})
	if err != nil {
		return fmt.Errorf("nats: unsubscribe from %q: %w", s.subject, err)
	}
	return nil
}
