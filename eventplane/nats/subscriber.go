package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// Subscriber receives the messages of one subject. It implements
// [driver.Subscriber], whose rules for concurrent use apply. Ready is safe for
// concurrent use too.
type Subscriber struct {
	nc      *nats.Conn
	sub     *nats.Subscription
	subject string
	queue   *driver.Queue[item]
	log     *slog.Logger
	ticks   *nats.Subscription
	pumped  atomic.Int64       // events that pump has taken from nats.go and handled
	ctx     context.Context    // ends with Close
	stop    context.CancelFunc // of ctx
	pumps   sync.WaitGroup
	once    sync.Once
	closed  atomic.Bool
	dropped atomic.Uint64 // by nats.go, as of the last call of Dropped

	readyMu    sync.Mutex
	errors     errorLog
	refused    error  // the server's, or nil
	reconnects uint64 // of the connection when refused was set: nats.go subscribes again
}

// item is a received message, or the error of a malformed one. The id and the
// sequence are those of a tick.
type item struct {
	kind                  driver.Kind
	subject               string
	publisherID, sequence uint64
	publishedAt           uint64 // of a tick
	body                  []byte
	malformed             *driver.FrameError
}

// announce returns a control message that announces a dropped item.
func (it item) announce(identity func([]byte) (uint64, uint64, bool)) (publisher uint64, control item, ok bool) {
	kind := it.kind
	switch {
	case it.malformed != nil:
		return 0, item{}, false
	case it.kind == driver.Event:
		kind = driver.Dropped
		it.publisherID, it.sequence, ok = identity(it.body)
	default:
		ok = true
	}
	control = item{
		kind: kind, subject: it.subject, publisherID: it.publisherID, sequence: it.sequence, publishedAt: it.publishedAt,
	}
	return it.publisherID, control, ok
}

var _ driver.Subscriber = (*Subscriber)(nil)

// Subscribe subscribes to subject on nc. The caller keeps nc open until the
// subscriber is closed, and closes it. Subscribe does not wait for the server;
// [Subscriber.Ready] does.
func Subscribe(nc *nats.Conn, subject string) (*Subscriber, error) {
	return SubscribeWith(nc, subject, Options{})
}

// SubscribeWith is like [Subscribe], with settings.
func SubscribeWith(nc *nats.Conn, subject string, o Options) (*Subscriber, error) {
	queue, err := o.Queue.WithDefaults()
	if err == nil {
		err = checkSubject(subject)
	}
	if err != nil {
		return nil, fmt.Errorf("nats: subscribe to %.100q: %w", subject, err)
	}
	s := &Subscriber{nc: nc, subject: subject, log: o.logger(), queue: driver.NewQueue[item](queue), errors: newErrorLog(nc)}
	if o.Identity != nil {
		s.queue.Announce(func(it item) (publisher uint64, control item, ok bool) {
			return it.announce(o.Identity)
		})
	}
	if err := s.subscribe(); err != nil {
		return nil, errors.Join(fmt.Errorf("nats: subscribe to %q: %w", subject, err), s.unsubscribe())
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.pumps.Go(s.pump)
	s.pumps.Go(s.pumpTicks)
	return s, nil
}

func (s *Subscriber) subscribe() (err error) {
	if s.sub, err = s.nc.SubscribeSync(s.subject); err != nil {
		return err
	}
	if err := s.sub.SetPendingLimits(maxPendingMessages, maxPendingBytes); err != nil {
		return err
	}
	return s.subscribeTicks()
}

// unsubscribe wakes the pumps.
func (s *Subscriber) unsubscribe() error {
	var errs []error
	for _, sub := range []*nats.Subscription{s.sub, s.ticks} {
		if sub == nil {
			continue
		}
		if err := sub.Unsubscribe(); !ended(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// ended reports whether err shows that a subscription ends or has ended with its
// connection.
func ended(err error) bool {
	return errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining) || errors.Is(err, nats.ErrBadSubscription)
}

// pump moves messages from nats.go to the queue until Close, or until the
// subscription has ended.
func (s *Subscriber) pump() {
	for s.queue.Wait(s.ctx) == nil {
		msg, err := s.sub.NextMsg(nextTimeout)
		switch {
		case err == nil:
			it := item{subject: msg.Subject, body: msg.Data}
			if s.queue.Admit(len(it.body)) {
				s.queue.Push(it, len(it.body))
			} else {
				s.queue.Rejected(it)
			}
			s.pumped.Add(1)
		case s.closed.Load():
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
			s.pumped.Add(1)
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
	*m = driver.Message{
		Kind: it.kind, Subject: it.subject, Body: it.body,
		PublisherID: it.publisherID, Sequence: it.sequence, HasIdentity: it.kind != driver.Event, PublishedAt: it.publishedAt,
	}
	return nil
}

// Ready blocks until the server has the subscription: messages published after
// Ready returns nil are received. While the connection is lost, Ready blocks
// until it has reconnected. It returns the error of ctx, [driver.ErrClosed] if
// the subscriber is closed, or an error that wraps [nats.ErrConnectionClosed], or
// [nats.ErrPermissionViolation] if the server does not permit the subscription.
func (s *Subscriber) Ready(ctx context.Context) error {
	if err := ready(ctx, s.nc, s.closed.Load); err != nil {
		return err
	}
	s.readyMu.Lock()
	defer s.readyMu.Unlock()
	reconnects := s.nc.Stats().Reconnects
	if err := s.errors.next(); refuses(err, subscribing, s.subject) {
		s.refused, s.reconnects = err, reconnects
	}
	if s.refused != nil && s.reconnects == reconnects {
		return fmt.Errorf("nats: subscribe to %q: %w", s.subject, s.refused)
	}
	return nil
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
		err = s.unsubscribe()
		s.pumps.Wait()
	})
	if err != nil {
		return fmt.Errorf("nats: unsubscribe from %q: %w", s.subject, err)
	}
	return nil
}
