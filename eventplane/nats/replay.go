package nats

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/eventplane/driver"
)

const (
	// replayIdle ends a replay without progress. The request or a part of the answer
	// may have been lost with the connection.
	replayIdle = time.Second

	// refusalPoll is how often a wait for an answer looks for a refusal.
	refusalPoll = 50 * time.Millisecond
)

var _ driver.Replayer = (*Subscriber)(nil)

// Replay implements [driver.Replayer]. Each call has an inbox of its own, so that
// answers do not mix. The error wraps [nats.ErrPermissionViolation] if the server
// does not permit the request or the inbox.
func (s *Subscriber) Replay(ctx context.Context, r driver.ReplayRequest, deliver func(*driver.Message)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.closed.Load() {
		return driver.ErrClosed
	}
	err := s.replay(ctx, r, deliver)
	switch {
	case err == nil || errors.Is(err, driver.ErrNoReplay):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case s.closed.Load():
		return driver.ErrClosed
	}
	return fmt.Errorf("nats: replay of publisher %d: %w", r.PublisherID, err)
}

func (s *Subscriber) replay(ctx context.Context, r driver.ReplayRequest, deliver func(*driver.Message)) error {
	w := replayReader{request: r, subject: s.subject, errors: newErrorLog(s.nc), deliver: deliver, next: r.First}
	var err error
	if w.inbox, err = s.nc.SubscribeSync(s.nc.NewInbox()); err != nil {
		return err
	}
	defer func() { _ = w.inbox.Unsubscribe() }()
	if err := w.inbox.SetPendingLimits(maxPendingMessages, maxPendingBytes); err != nil {
		return err
	}
	stop := context.AfterFunc(s.ctx, func() { _ = w.inbox.Unsubscribe() })
	defer stop()
	body := binary.BigEndian.AppendUint64(make([]byte, 0, requestSize), r.First)
	body = binary.BigEndian.AppendUint64(body, r.Last)
	if err := s.nc.PublishRequest(replaySubject(r.PublisherID), w.inbox.Subject, body); err != nil {
		return err
	}
	for !w.done {
		if err := w.read(ctx); err != nil {
			return err
		}
	}
	return nil
}

// replayReader reads one answer.
type replayReader struct {
	request driver.ReplayRequest
	subject string
	inbox   *nats.Subscription
	errors  errorLog
	deliver func(*driver.Message)

	next  uint64 // the lowest sequence that may follow
	count uint64 // events delivered
	done  bool
}

// read reads one message of the answer.
func (w *replayReader) read(ctx context.Context) error {
	for end := time.Now().Add(replayIdle); ; {
		msg, err := w.wait(ctx)
		switch {
		case err == nil:
			return w.decode(ctx, msg.Data)
		case errors.Is(err, nats.ErrNoResponders):
			return driver.ErrNoReplay
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
		default:
			return err // the answer has a hole if it is ErrSlowConsumer
		}
		if err := w.refusal(); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("no progress for %v: %w", replayIdle, nats.ErrTimeout)
		}
	}
}

func (w *replayReader) wait(ctx context.Context) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, refusalPoll)
	defer cancel()
	return w.inbox.NextMsgWithContext(ctx)
}

func (w *replayReader) refusal() error {
	err := w.errors.next()
	if refuses(err, publishing, replaySubject(w.request.PublisherID)) || refuses(err, subscribing, w.inbox.Subject) {
		return err
	}
	return nil
}

// decode delivers the records of a message. They belong to the caller, as the
// message does.
func (w *replayReader) decode(ctx context.Context, data []byte) error {
	for len(data) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if w.done {
			return fmt.Errorf("%d bytes after the end of the answer: want none", len(data))
		}
		if len(data) < recordHeader || data[16] != recordVersion {
			return fmt.Errorf("record of %d bytes: want a header of %d, with version %d", len(data), recordHeader, recordVersion)
		}
		id, sequence, size := binary.BigEndian.Uint64(data), binary.BigEndian.Uint64(data[8:]), binary.BigEndian.Uint32(data[17:])
		data = data[recordHeader:]
		if uint64(size) > uint64(len(data)) {
			return fmt.Errorf("record of %d bytes: want the %d that its header announces", len(data), size)
		}
		if err := w.record(id, sequence, data[:size:size]); err != nil {
			return err
		}
		data = data[size:]
	}
	return nil
}

func (w *replayReader) record(id, sequence uint64, body []byte) error {
	r := w.request
	switch {
	case id != r.PublisherID:
		return fmt.Errorf("event of publisher %d", id)
	case sequence == driver.NoSequence:
		return w.end(body)
	case sequence < w.next || sequence > r.Last || w.count == driver.MaxReplay:
		return fmt.Errorf("sequence %d: want %d to %d, and %d events at most", sequence, w.next, r.Last, driver.MaxReplay)
	}
	w.deliver(&driver.Message{Subject: w.subject, PublisherID: id, Sequence: sequence, HasIdentity: true, Body: body})
	w.next = sequence + 1
	w.count++
	return nil
}

// end compares the last record with what was received: nats.go and the server drop
// messages of subscribers that are slow.
func (w *replayReader) end(body []byte) error {
	if len(body) != endSize {
		return fmt.Errorf("last record of %d bytes: want %d", len(body), endSize)
	}
	if n := binary.BigEndian.Uint64(body[16:]); n != w.count {
		return fmt.Errorf("%d events: want the %d that were sent", w.count, n)
	}
	w.done = true
	return nil
}
