package eventplane

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane/driver"
)

// Event is an event as it was received.
type Event struct {
	codec.Envelope

	// Missed is how many events of the same publisher were lost just before
	// this one. It is 0 for the first that is heard of a publisher.
	Missed uint64
}

// Decode decodes the payload into what v points to. An error is a *DecodeError.
func (e Event) Decode(v any) error {
	if err := e.Codec.Unmarshal(e.Payload, v); err != nil {
		return &DecodeError{Subject: e.Topic, Reason: "payload", Err: err}
	}
	return nil
}

// Stats counts what a subscriber has met.
type Stats struct {
	Received     uint64 // events that Next returned
	Dropped      uint64 // messages thrown away here because Next was not called often enough; they are in Missed too
	Duplicates   uint64 // events that came again by another broker
	OutOfOrder   uint64 // events that came after they had been given up as missed, and were not delivered
	DecodeErrors uint64 // messages that were no valid event
	Gaps         uint64 // times that events were missed
	Missed       uint64 // events missed

	// Incompatible is the number of channels that are registered now in the
	// scope and topic with a transport that this subscriber does not use. It is
	// counted on ZMQ without a broker only.
	Incompatible int

	// Publishers has the last sequence of each publisher that was heard, of
	// the 65,536 heard last.
	Publishers map[uint64]uint64
}

// Subscriber receives the events of one topic of a scope. Next is for one
// goroutine at a time; everything else is safe for concurrent use.
type Subscriber struct {
	client *Client
	topic  string
	conn   *subConn

	msg driver.Message // reused by Next, as is env
	env codec.Envelope

	once sync.Once
	err  error // of Shutdown

	mu        sync.Mutex
	sequencer *sequencer
	received  uint64
	bad       uint64
}

func (c *Client) newSubscriber(ctx context.Context, scope discovery.Scope, topic string) (*Subscriber, error) {
	r, err := newRoute(scope, topic, c.config.Wire)
	if err != nil {
		return nil, err
	}
	conn, err := c.transport.subscriber(ctx, r)
	if err != nil {
		return nil, err
	}
	return &Subscriber{client: c, topic: topic, conn: conn, sequencer: newSequencer(conn.multipath)}, nil
}

// Ready blocks until the subscription stands: on NATS when the server has it; on
// ZMQ when the channels that discovery knows are connected and every peer has
// finished its handshake. What is published from then on by those is heard,
// except that a ZMQ publisher may learn of the subscription a moment later.
func (s *Subscriber) Ready(ctx context.Context) error { return s.wrap(ctx, s.conn.Ready(ctx)) }

// Next blocks for the next event. A *DecodeError says that something arrived
// that is none; the stream goes on, as it does after an error of ctx, by which
// nothing is lost. Any other error is final; after Shutdown it wraps ErrClosed.
func (s *Subscriber) Next(ctx context.Context) (Event, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Event{}, err
		}
		ev, ok, wait := s.ready()
		if ok {
			return ev, nil
		}
		if err := s.receive(ctx, wait); err != nil {
			return Event{}, err
		}
	}
}

// ready returns an event that can be delivered now, or how long others that are
// held may wait for a message; 0 is that none are.
func (s *Subscriber) ready() (ev Event, ok bool, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ev, ok = s.sequencer.next(); ok {
		s.received++
	}
	return ev, ok, s.sequencer.held.timeout()
}

// receive passes the sequencer a message, or the time that it waited for one.
func (s *Subscriber) receive(ctx context.Context, wait time.Duration) error {
	waiting, start := ctx, time.Time{}
	if wait > 0 {
		start = time.Now()
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	err := s.conn.Next(waiting, &s.msg)

	s.mu.Lock()
	defer s.mu.Unlock()
	if wait > 0 {
		defer func() { s.sequencer.advance(time.Since(start)) }()
	}
	var frame *driver.FrameError
	switch {
	case err == nil:
		return s.accept()
	case errors.As(err, &frame):
		s.bad++
		return &DecodeError{Subject: s.conn.subject, Err: err}
	case wait > 0 && ctx.Err() == nil && waiting.Err() != nil:
		return nil
	case ctx.Err() == nil && s.sequencer.held.oldest != nil:
		// The end: first deliver what is held. The driver says it again.
		s.sequencer.flush()
		return nil
	}
	return s.wrap(ctx, err)
}

// accept passes the sequencer the event in the message, if it is one.
func (s *Subscriber) accept() error {
	ev := &s.env
	ev.Topic = s.topic // saves Decode an allocation
	err := ev.Decode(s.msg.Body)
	reason := ""
	switch {
	case err != nil:
	case ev.Topic != s.topic:
		reason = fmt.Sprintf("topic %q in the envelope: want %q", ev.Topic, s.topic)
	case s.msg.HasIdentity && (s.msg.PublisherID != ev.PublisherID || s.msg.Sequence != ev.Sequence):
		reason = fmt.Sprintf("publisher %d, sequence %d in the frames, but %d, %d in the envelope: want the same",
			s.msg.PublisherID, s.msg.Sequence, ev.PublisherID, ev.Sequence)
	default:
		s.sequencer.add(Event{Envelope: *ev})
		return nil
	}
	s.bad++
	return &DecodeError{Subject: s.conn.subject, Reason: reason, Err: err}
}

// wrap passes errors of ctx as they are.
func (s *Subscriber) wrap(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, driver.ErrClosed):
		err = ErrClosed
	}
	return fmt.Errorf("eventplane: subscriber of %s: %w", s.topic, err)
}

// Stats returns a snapshot of the counters.
func (s *Subscriber) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	seq := s.sequencer
	return Stats{
		Received: s.received, Dropped: s.conn.Dropped(),
		Duplicates: seq.stats.duplicates, OutOfOrder: seq.stats.outOfOrder, DecodeErrors: s.bad,
		Gaps: seq.stats.gaps, Missed: seq.stats.missed,
		Incompatible: s.conn.incompatible(), Publishers: seq.publishers(),
	}
}

// Shutdown ends the subscription and wakes Next. It is idempotent, and waits
// for nobody.
func (s *Subscriber) Shutdown(context.Context) error {
	s.once.Do(func() {
		s.client.forget(s)
		if err := s.conn.Close(); err != nil {
			s.err = fmt.Errorf("eventplane: shutdown of the subscriber of %s: %w", s.topic, err)
		}
	})
	return s.err
}

func (s *Subscriber) countBad() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad++
}
