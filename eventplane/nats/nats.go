// Package nats is the driver that carries the event plane's messages over NATS
// core subjects. Applications use package eventplane, which is built on it.
//
// The driver uses a connection that the caller owns, and neither dials nor
// closes one:
//
//	pub := natsdriver.NewPublisher(nc)
//	sub, err := natsdriver.Subscribe(nc, "namespace.dynamo.component.backend.kv-events")
//
// A message is one NATS message whose payload is the encoded envelope. It has
// no headers and no reply subject, and subscriptions have no queue group, like
// those of NVIDIA Dynamo. Delivery is at most once.
//
// Import the package as natsdriver, since nats.go is package nats too.
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
	"github.com/dynplane/dynplane/internal/wait"
)

const (
	// nats.go holds at most maxPendingMessages and maxPendingBytes that the
	// subscriber's queue has not taken over yet, which happens only while that
	// blocks, or the machine is busy. Further messages are dropped and counted:
	// the newest, not the oldest.
	maxPendingMessages = 64 << 10
	maxPendingBytes    = 64 << 20

	// maxSubject limits the bytes of a subject. The server closes a connection
	// with a command of more than 4,096 bytes without its name, unless it is
	// configured otherwise; the rest is for the numbers after the subject.
	maxSubject = 4096 - 64

	// nats.go does not end a wait for messages when the server refuses the
	// subscription, so the wait is repeated after refusalCheck.
	refusalCheck = 250 * time.Millisecond

	// closeFlushTimeout bounds the wait of Publisher.Close for the server.
	closeFlushTimeout = 2 * time.Second

	// readyFlushTimeout bounds one attempt of Ready. Ready retries
	// readyRetryWait after an attempt that failed, because the time was up or
	// the connection was lost.
	readyFlushTimeout = 2 * time.Second
	readyRetryWait    = 50 * time.Millisecond
)

// Publisher sends messages on a connection. It implements [driver.Publisher],
// whose rules for concurrent use apply.
type Publisher struct {
	nc      *nats.Conn
	closed  atomic.Bool
	maxBody atomic.Int64 // as the server announced it last
}

var _ driver.Publisher = (*Publisher)(nil)

// NewPublisher returns a publisher that uses nc. The caller keeps nc open until
// the publisher is closed, and closes it.
func NewPublisher(nc *nats.Conn) *Publisher {
	p := &Publisher{nc: nc}
	p.maxBody.Store(nc.MaxPayload())
	return p
}

// MaxBody implements [driver.Publisher].
func (p *Publisher) MaxBody() int { return int(p.maxBody.Load()) }

// Publish implements [driver.Publisher]. The error wraps [nats.ErrMaxPayload] if
// the message is larger than the server accepts, [nats.ErrReconnectBufExceeded]
// if the connection is lost and cannot buffer the message, and
// [nats.ErrConnectionClosed] if it is closed. A connection that buffers while it
// is lost, which is the default of nats.go, sends the message after it has
// reconnected.
func (p *Publisher) Publish(ctx context.Context, m *driver.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.closed.Load() {
		return driver.ErrClosed
	}
	if err := checkSubject(m.Subject); err != nil {
		return fmt.Errorf("nats: publish on %.100q: %w", m.Subject, err)
	}
	err := p.nc.Publish(m.Subject, m.Body)
	if errors.Is(err, nats.ErrMaxPayload) {
		return fmt.Errorf("nats: publish on %q: message has %d bytes: want at most %d: %w", m.Subject, len(m.Body), p.nc.MaxPayload(), err)
	}
	if errors.Is(err, nats.ErrReconnectBufExceeded) {
		return fmt.Errorf("nats: publish on %q: no connection to a server: %w", m.Subject, err)
	}
	if err != nil {
		return fmt.Errorf("nats: publish on %q: %w", m.Subject, err)
	}
	return nil
}

// Ready implements [driver.Publisher]. It blocks until the server has received
// what was published before.
func (p *Publisher) Ready(ctx context.Context) error { return ready(ctx, p.nc, p.closed.Load) }

// checkSubject refuses a subject for which the server would close the connection,
// which others use too.
func checkSubject(subject string) error {
	if len(subject) > maxSubject {
		return fmt.Errorf("subject of %d bytes: want at most %d", len(subject), maxSubject)
	}
	return nil
}

// Close implements [driver.Publisher]. It waits until the server has received
// all messages published, for two seconds at most; after that it returns an
// error that wraps [nats.ErrTimeout]. It does not wait while the connection is
// lost.
func (p *Publisher) Close() error {
	if p.closed.Swap(true) {
		return nil
	}
	if !p.nc.IsConnected() {
		return nil // a connection that buffers sends after it has reconnected
	}
	if err := p.nc.FlushTimeout(closeFlushTimeout); err != nil {
		return fmt.Errorf("nats: close publisher: flush: %w", err)
	}
	return nil
}

// Subscriber receives the messages of one subject. It implements
// [driver.Subscriber], whose rules for concurrent use apply. Ready is safe for
// concurrent use too.
type Subscriber struct {
	nc      *nats.Conn
	sub     *nats.Subscription
	subject string
	queue   *driver.Queue[item]
	stop    context.CancelFunc // ends pump
	done    chan struct{}      // closed when pump has ended
	once    sync.Once
	closed  atomic.Bool
	dropped atomic.Uint64 // by nats.go, as of the last call of Dropped
}

// item is a received message, or the error of a malformed one.
type item struct {
	subject   string
	body      []byte
	malformed *driver.FrameError
}

var _ driver.Subscriber = (*Subscriber)(nil)

// Subscribe subscribes to subject on nc. The caller keeps nc open until the
// subscriber is closed, and closes it. Subscribe does not wait for the server;
// [Subscriber.Ready] does.
func Subscribe(nc *nats.Conn, subject string) (*Subscriber, error) {
	return SubscribeWith(nc, subject, driver.QueueOptions{})
}

// SubscribeWith is like [Subscribe], with settings of the queue. A server
// disconnects clients that stop reading, so a queue that blocks does not hold back
// the publishers: once it is full, 65,536 messages or 64 MiB more are kept before
// it, and further ones are dropped.
func SubscribeWith(nc *nats.Conn, subject string, queue driver.QueueOptions) (*Subscriber, error) {
	queue, err := queue.WithDefaults()
	if err == nil {
		err = checkSubject(subject)
	}
	if err != nil {
		return nil, fmt.Errorf("nats: subscribe to %.100q: %w", subject, err)
	}
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		return nil, fmt.Errorf("nats: subscribe to %q: %w", subject, err)
	}
	if err := sub.SetPendingLimits(maxPendingMessages, maxPendingBytes); err != nil {
		return nil, errors.Join(fmt.Errorf("nats: subscribe to %q: set limits: %w", subject, err), sub.Unsubscribe())
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Subscriber{
		nc: nc, sub: sub, subject: subject, queue: driver.NewQueue[item](queue),
		stop: stop, done: make(chan struct{}),
	}
	go s.pump(ctx)
	return s, nil
}

// pump moves messages from nats.go to the queue until ctx is done or the
// subscription has ended.
func (s *Subscriber) pump(ctx context.Context) {
	defer close(s.done)
	for s.queue.Wait(ctx) == nil {
		msg, err := s.sub.NextMsg(refusalCheck)
		switch {
		case err == nil:
			if s.queue.Admit(len(msg.Data)) {
				s.queue.Push(item{subject: msg.Subject, body: msg.Data}, len(msg.Data))
			}
		case ctx.Err() != nil:
			return
		case errors.Is(err, nats.ErrTimeout):
		case errors.Is(err, nats.ErrSlowConsumer):
			// nats.go returns this once, when it begins to drop messages.
			// Dropped counts them, and pending messages can still be received.
		case errors.Is(err, nats.ErrNoResponders):
			// nats.go treats an empty message with status 503 as the reply to a
			// request.
			if s.queue.Admit(0) {
				s.queue.Push(item{malformed: &driver.FrameError{Subject: s.subject, Reason: "status without a body: want an envelope"}}, 0)
			}
		default:
			s.queue.End(fmt.Errorf("nats: receive on %q: %w", s.subject, err))
			return
		}
	}
}

// Next implements [driver.Subscriber]. Messages arrive again after the
// connection was lost and has reconnected; those sent meanwhile do not. An
// error that is final wraps [nats.ErrConnectionClosed] if the connection was
// closed, or [nats.ErrPermissionViolation] if the server does not permit the
// subscription and the connection has [nats.PermissionErrOnSubscribe].
func (s *Subscriber) Next(ctx context.Context, m *driver.Message) error {
	if err := ctx.Err(); err != nil && !s.closed.Load() {
		return err
	}
	it, err := s.queue.Pop(ctx)
	switch {
	case err != nil:
		return err
	case it.malformed != nil:
		return it.malformed
	}
	*m = driver.Message{Subject: it.subject, Body: it.body}
	return nil
}

// Ready blocks until the server has the subscription: messages published after
// Ready returns nil are received. While the connection is lost, Ready blocks
// until it has reconnected. It returns the error of ctx, [driver.ErrClosed] if
// the subscriber is closed, or an error that wraps [nats.ErrConnectionClosed].
func (s *Subscriber) Ready(ctx context.Context) error {
	return ready(ctx, s.nc, s.closed.Load)
}

// ready blocks until the server has received what was sent before on nc. It tries
// again while the connection is lost.
func ready(ctx context.Context, nc *nats.Conn, closed func() bool) error {
	for {
		err := flush(ctx, nc)
		switch {
		case closed():
			return driver.ErrClosed
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case nc.IsClosed():
			return fmt.Errorf("nats: wait for the server: %w", err)
		}
		if err := wait.Sleep(ctx, readyRetryWait); err != nil {
			return err
		}
	}
}

func flush(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, readyFlushTimeout)
	defer cancel()
	return nc.FlushWithContext(ctx)
}

// Dropped implements [driver.Subscriber].
func (s *Subscriber) Dropped() uint64 {
	if n, err := s.sub.Dropped(); err == nil && n > 0 {
		s.dropped.Store(uint64(n))
	}
	return s.dropped.Load() + s.queue.Dropped()
}

// Queued implements [driver.Subscriber].
func (s *Subscriber) Queued() int {
	pending, _, err := s.sub.Pending()
	if err != nil { // the subscription has ended
		pending = 0
	}
	return s.queue.Len() + pending
}

// Close implements [driver.Subscriber]. It removes the subscription and leaves
// the connection open.
func (s *Subscriber) Close() error {
	var err error
	s.once.Do(func() {
		s.Dropped() // nats.go discards the count with the subscription
		s.closed.Store(true)
		s.queue.Close(driver.ErrClosed)
		s.stop()
		err = s.sub.Unsubscribe() // wakes pump
		<-s.done
		if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining) || errors.Is(err, nats.ErrBadSubscription) {
			err = nil // the subscription ends or has ended with its connection
		}
	})
	if err != nil {
		return fmt.Errorf("nats: unsubscribe from %q: %w", s.subject, err)
	}
	return nil
}
