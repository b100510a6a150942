package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/wait"
)

// Publisher sends messages on a connection. It implements [driver.Publisher] and
// [driver.ReplayServer], whose rules for concurrent use apply.
type Publisher struct {
	nc      *nats.Conn
	log     *slog.Logger
	closed  atomic.Bool
	ended   chan nats.Status // receives CLOSED, or is closed
	final   atomic.Bool      // ended has received it
	maxBody atomic.Int64     // as the server announced it last, or 0
	replay  *replayServer    // nil unless ServeReplay was called

	errors       errorLog // of Publish
	ticksRefused bool
}

var _ driver.Publisher = (*Publisher)(nil)

// NewPublisher returns a publisher that uses nc. The caller keeps nc open until
// the publisher is closed, and closes it.
func NewPublisher(nc *nats.Conn) *Publisher { return NewPublisherWith(nc, Options{}) }

// NewPublisherWith is like [NewPublisher], with settings.
func NewPublisherWith(nc *nats.Conn, o Options) *Publisher {
	p := &Publisher{nc: nc, log: o.logger(), errors: newErrorLog(nc), ended: nc.StatusChanged(nats.CLOSED)}
	p.final.Store(nc.IsClosed())
	p.maxBody.Store(nc.MaxPayload())
	return p
}

// Check implements [driver.Publisher]. The errors are those of Publish. A body may have
// the max_payload of the server, less the header of an event in a replay if the
// publisher serves that.
func (p *Publisher) Check(size int) error {
	select {
	case <-p.ended:
		p.final.Store(true)
	default:
	}
	limit := p.maxBody.Load()
	if p.replay != nil {
		limit -= recordHeader
	}
	switch {
	case p.closed.Load():
		return driver.ErrClosed
	case p.final.Load():
		return fmt.Errorf("nats: publish: %w", nats.ErrConnectionClosed)
	case limit > 0 && int64(size) > limit: // otherwise there was no connection yet
		return fmt.Errorf("nats: publish: message has %d bytes: want at most %d: %w", size, limit, nats.ErrMaxPayload)
	}
	return nil
}

// Publish implements [driver.Publisher]. It does not use the buffer that a connection
// has while it is lost, but waits. The error wraps [nats.ErrMaxPayload] if the message
// is larger than the server accepts, [nats.ErrConnectionClosed] if the connection is
// closed, and [nats.ErrPermissionViolation] if the server has refused an earlier
// message.
//
// A tick is never refused: once the server does not permit one, none is sent.
func (p *Publisher) Publish(ctx context.Context, m *driver.Message) error {
	err := checkSubject(m.Subject)
	if err != nil {
		return fmt.Errorf("nats: publish on %.100q: %w", m.Subject, err)
	}
	for lost := true; lost; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := p.Check(len(m.Body)); err != nil {
			return err
		}
		if lost, err = p.attempt(m); lost {
			if err := p.awaitConnection(ctx); err != nil {
				return err
			}
		}
	}
	if err == nil {
		err = p.refusal(m.Subject)
	}
	if err != nil {
		return fmt.Errorf("nats: publish on %q: %w", m.Subject, err)
	}
	return nil
}

// attempt sends m once. It reports whether the connection is lost, or a write to it
// has failed: the server has not received m then, not even later.
func (p *Publisher) attempt(m *driver.Message) (lost bool, err error) {
	if !p.nc.IsConnected() {
		return !p.nc.IsClosed(), nats.ErrConnectionClosed
	}
	if m.Kind == driver.Tick {
		err = p.publishTick(m)
	} else {
		err = p.nc.Publish(m.Subject, m.Body)
	}
	switch {
	case err == nil, errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining), errors.Is(err, nats.ErrBadSubject):
		return false, err
	case errors.Is(err, nats.ErrMaxPayload):
		p.maxBody.Store(p.nc.MaxPayload()) // the server is another one
		return false, err
	}
	return true, err
}

// awaitConnection blocks until the connection is not lost. One that only failed to
// write counts as lost for publishRetryWait.
func (p *Publisher) awaitConnection(ctx context.Context) error {
	changes := p.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer p.nc.RemoveStatusListener(changes)
	if p.nc.IsConnected() {
		return wait.Sleep(ctx, publishRetryWait)
	}
	if p.nc.IsClosed() {
		return nil
	}
	select {
	case <-changes:
		p.maxBody.Store(p.nc.MaxPayload())
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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
	p.nc.RemoveStatusListener(p.ended)
	var err error
	if p.replay != nil {
		err = p.replay.close()
	}
	if p.nc.IsConnected() {
		err = errors.Join(err, p.nc.FlushTimeout(closeFlushTimeout))
	}
	if err != nil {
		return fmt.Errorf("nats: close publisher: %w", err)
	}
	return nil
}
