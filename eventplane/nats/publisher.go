package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// Publisher sends messages on a connection. It implements [driver.Publisher] and
// [driver.ReplayServer], whose rules for concurrent use apply.
type Publisher struct {
	nc      *nats.Conn
	log     *slog.Logger
	closed  atomic.Bool
	maxBody atomic.Int64  // as the server announced it last, or 0
	replay  *replayServer // nil unless ServeReplay was called

	errors       errorLog // of Publish
	ticksRefused bool
}

var _ driver.Publisher = (*Publisher)(nil)

// NewPublisher returns a publisher that uses nc. The caller keeps nc open until
// the publisher is closed, and closes it.
func NewPublisher(nc *nats.Conn) *Publisher { return NewPublisherWith(nc, Options{}) }

// NewPublisherWith is like [NewPublisher], with settings.
func NewPublisherWith(nc *nats.Conn, o Options) *Publisher {
	p := &Publisher{nc: nc, log: o.logger(), errors: newErrorLog(nc)}
	p.maxBody.Store(nc.MaxPayload())
	return p
}

// Publish implements [driver.Publisher]. The error wraps [nats.ErrMaxPayload] if
// the message is larger than the server accepts, [nats.ErrReconnectBufExceeded]
// if the connection is lost and cannot buffer the message,
// [nats.ErrConnectionClosed] if it is closed, and [nats.ErrPermissionViolation]
// if the server has refused an earlier message. A connection that buffers while it
// is lost, which is the default of nats.go, sends the message after it has
// reconnected.
//
// A tick is never refused: once the server does not permit one, none is sent.
func (p *Publisher) Publish(ctx context.Context, m *driver.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.closed.Load() {
		return driver.ErrClosed
	}
	err := checkSubject(m.Subject)
	switch {
	case err != nil:
		return fmt.Errorf("nats: publish on %.100q: %w", m.Subject, err)
	case m.Kind == driver.Tick:
		err = p.publishTick(m)
	case len(m.Body) > p.MaxBody():
		return fmt.Errorf("nats: publish on %q: message has %d bytes: want at most %d: %w", m.Subject, len(m.Body), p.MaxBody(), nats.ErrMaxPayload)
	default:
		err = p.nc.Publish(m.Subject, m.Body)
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		p.maxBody.Store(p.nc.MaxPayload()) // the server is another one
	}
	if errors.Is(err, nats.ErrReconnectBufExceeded) {
		return fmt.Errorf("nats: publish on %q: no connection to a server: %w", m.Subject, err)
	}
	if err == nil {
		err = p.refusal(m.Subject)
	}
	if err != nil {
		return fmt.Errorf("nats: publish on %q: %w", m.Subject, err)
	}
	return nil
}

// refusal returns the error of the server that refused an earlier message on
// subject, once for each message that was refused.
func (p *Publisher) refusal(subject string) error {
	err := p.errors.next()
	switch {
	case err == nil:
	case refuses(err, publishing, subject):
		return fmt.Errorf("an earlier message was refused: %w", err)
	case !p.ticksRefused && refuses(err, publishing, tickPrefix+subject):
		p.ticksRefused = true
		p.log.Warn("nats: ticks are not permitted, subscribers may not detect the loss of the last events", "subject", subject, "error", err)
	}
	return nil
}

// MaxBody implements [driver.Publisher]. It is the max_payload of the server, less
// the header of an event in a replay if the publisher serves that.
func (p *Publisher) MaxBody() int {
	limit := p.maxBody.Load()
	if limit <= 0 { // there was no connection yet
		return math.MaxInt
	}
	if p.replay != nil {
		limit -= recordHeader
	}
	return int(limit)
}

// Ready implements [driver.Publisher]. It blocks until the server has received
// what was published before.
func (p *Publisher) Ready(ctx context.Context) error { return ready(ctx, p.nc, p.closed.Load) }

// Close implements [driver.Publisher]. It waits until the server has received
// all messages published, for two seconds at most; after that it returns an
// error that wraps [nats.ErrTimeout]. It does not wait while the connection is
// lost.
func (p *Publisher) Close() error {
	if p.closed.Swap(true) {
		return nil
	}
	var err error
	if p.replay != nil {
		err = p.replay.close()
	}
	if p.nc.IsConnected() { // otherwise one that buffers sends after it has reconnected
		err = errors.Join(err, p.nc.FlushTimeout(closeFlushTimeout))
	}
	if err != nil {
		return fmt.Errorf("nats: close publisher: %w", err)
	}
	return nil
}
