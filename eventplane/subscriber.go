package eventplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane/driver"
)

// Event is an event as it was received. Its Payload must not be written to.
type Event struct {
	codec.Envelope

	// Gap, unless nil, reports events that were lost. Such an Event has no payload,
	// and of the envelope only PublisherID and Topic. A subscriber returns it just
	// before the event whose Missed counts them, if SubscriberOptions.Gaps is set.
	Gap *Gap

	// Missed is the number of events of the same publisher that were lost just
	// before this one. It is 0 for the first event received of a publisher, or
	// received after the publisher was restarted.
	Missed uint64
}

// Gap is a range of events of one publisher that were not delivered.
type Gap struct {
	PublisherID uint64
	First, Last uint64 // sequences

	// Recovered reports that the events were obtained again and delivered. It is
	// always false in this version.
	Recovered bool
}

// SubscriberOptions are the settings of one [Subscriber]. The zero value is that of
// [Client.Subscriber].
type SubscriberOptions struct {
	// Gaps makes Next return each gap as an Event of its own; see Event.Gap.
	Gaps bool

	// QueueSize and QueueBytes bound the events that wait for Next, whichever is
	// reached first; 0 means those of Config. A single event may be larger than
	// the bound in bytes.
	QueueSize, QueueBytes int

	// Overflow selects what happens when the bounds are reached. Events that are
	// dropped are counted in Stats.Dropped, and then in Missed.
	Overflow Overflow
}

// Overflow is the policy of a subscriber whose queue is full.
type Overflow = driver.Overflow

// The policies. DropOldest is the default: the events of a subscriber that is too
// slow stay recent. With Block, events wait in the transport until there is room,
// and are dropped there: on ZMQ by the publisher or the broker, whose drops only
// Missed shows, and on NATS by this client when 65,536 events or 64 MiB more wait.
const (
	DropOldest = driver.DropOldest
	DropNewest = driver.DropNewest
	Block      = driver.Block
)

// ParseOverflow parses drop-oldest, drop-newest or block.
func ParseOverflow(s string) (Overflow, error) {
	for _, o := range []Overflow{DropOldest, DropNewest, Block} {
		if s == o.String() {
			return o, nil
		}
	}
	return 0, fmt.Errorf("eventplane: overflow policy %q: want drop-oldest, drop-newest or block", s)
}

// Decode decodes the payload, with the codec of the envelope, into the value
// that v points to, which should be a zero value. The error is a *DecodeError.
func (e Event) Decode(v any) error {
	if e.Gap != nil {
		return &DecodeError{Subject: e.Topic, Reason: "payload: a gap has none: want an event without Gap"}
	}
	if err := e.Codec.Unmarshal(e.Payload, v); err != nil {
		return &DecodeError{Subject: e.Topic, Reason: "payload", Err: err}
	}
	return nil
}

// Stats are the counters of a subscriber, since it was opened unless stated
// otherwise.
type Stats struct {
	Received     uint64 // events that Next returned
	Dropped      uint64 // messages dropped here because Next was not called often enough; Missed counts their events too
	Duplicates   uint64 // events that arrived again: equal in publisher, sequence and time of publishing
	OutOfOrder   uint64 // events that arrived after later ones had been delivered, and were discarded; Missed counts them, unless they precede the first event received of their publisher
	Restarts     uint64 // publishers that began again under their ids, with lower sequences that were published later
	DecodeErrors uint64 // messages that were not valid events
	Unlisted     uint64 // events of publishers that are not registered in the scope and topic, and were not delivered; only on ZMQ without a broker
	Gaps         uint64 // events with Missed above 0
	Missed       uint64 // sum of the events' Missed

	// Incompatible is the number of channels that are registered now in the
	// scope and topic with a transport that this subscriber does not use. They
	// are counted on ZMQ without a broker. On NATS, if Config.Transport is a
	// default, it is their number when the subscriber was opened.
	Incompatible int

	// Publishers maps the id of each publisher to the sequence of its last
	// event. It contains the 65,536 publishers whose events arrived last. On ZMQ
	// without a broker, publishers that are no longer registered are removed after
	// a few seconds.
	Publishers map[uint64]uint64
}

// Subscriber receives the events of one scope and topic. Next must be called by
// one goroutine at a time. All other methods are safe for concurrent use, also
// during Next.
type Subscriber struct {
	client *Client
	topic  string
	conn   *subConn

	msg driver.Message // reused by Next
	env codec.Envelope // reused by Next

	onlyListed bool // events of other publishers are not delivered

	once sync.Once
	err  error // of Shutdown

	mu        sync.Mutex
	sequencer *sequencer
	received  uint64
	bad       uint64 // decode errors
	unlisted  uint64
}

// newSubscriber opens the connection. The reorder buffer is used only if events
// can arrive on more than one path.
func (c *Client) newSubscriber(ctx context.Context, scope discovery.Scope, topic string, o SubscriberOptions) (*Subscriber, error) {
	r, err := newRoute(scope, topic, c.config.Wire)
	if err != nil {
		return nil, err
	}
	queue, err := driver.QueueOptions{
		Size:  cmp.Or(o.QueueSize, c.config.QueueSize),
		Bytes: cmp.Or(o.QueueBytes, c.config.QueueBytes), Overflow: o.Overflow,
	}.WithDefaults()
	if err != nil {
		return nil, err
	}
	conn, err := c.transport.subscriber(ctx, r, queue)
	if err != nil {
		return nil, err
	}
	if conn.follow == nil {
		conn.follow = c.compareTransports(r)
	}
	s := &Subscriber{client: c, topic: topic, conn: conn, sequencer: newSequencer(conn.multipath)}
	s.sequencer.reportGaps = o.Gaps
	if conn.departures != nil {
		conn.departures.attach(s.sequencer, &s.mu)
		s.onlyListed = c.config.Wire != WireGen1 // ids of its channels can differ from those of its events
	}
	return s, nil
}

// Ready blocks until the subscription is in effect, so that events published
// after Ready returns nil are received: on NATS when the server has the
// subscription, on ZMQ when the peers that discovery has found are connected and
// each has completed its handshake. A ZMQ publisher without a broker may process
// the subscription a moment later. A peer that is down keeps Ready blocked.
//
// The error is that of ctx, or wraps [ErrClosed] after Shutdown, or the cause if
// the transport has failed for good.
func (s *Subscriber) Ready(ctx context.Context) error { return s.wrap(ctx, s.conn.Ready(ctx)) }

// Next blocks until an event arrives, and returns it, or a gap if these are
// requested; see [SubscriberOptions]. It must be called by one
// goroutine at a time.
//
// A [*DecodeError] reports a message that is not a valid event; the stream
// continues. It also continues after an error of ctx, by which no event is lost.
// Any other error is final. After Shutdown it wraps [ErrClosed].
func (s *Subscriber) Next(ctx context.Context) (Event, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Event{}, err
		}
		ev, ok, wait := s.ready()
		if ok {
			if ev.Gap == nil {
				s.client.compareCodec(ev.Envelope)
			}
			return ev, nil
		}
		if err := s.receive(ctx, wait); err != nil {
			return Event{}, err
		}
	}
}

// ready returns an event that can be delivered now, if there is one, and the
// time until the reorder buffer has to release another; 0 means that it is empty.
func (s *Subscriber) ready() (ev Event, ok bool, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ev, ok = s.sequencer.next(); ok && ev.Gap == nil {
		s.received++
	}
	return ev, ok, s.sequencer.held.timeout()
}

// receive waits for one message, for the given time if it is not 0, and passes it
// to the sequencer. It advances the clock of the reorder buffer by the time that
// it waited.
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
	_, malformed := errors.AsType[*driver.FrameError](err)
	switch {
	case err == nil && s.msg.Kind != driver.Event:
		return nil
	case err == nil:
		return s.accept()
	case malformed:
		s.bad++
		return &DecodeError{Subject: s.conn.subject, Err: err}
	case wait > 0 && ctx.Err() == nil && waiting.Err() != nil:
		return nil
	case ctx.Err() == nil && s.sequencer.held.oldest != nil:
		// The stream has ended. The events that are held are delivered first;
		// the driver returns the error again on the next call.
		s.sequencer.flush()
		return nil
	}
	return s.wrap(ctx, err)
}

// accept decodes the message and passes the event to the sequencer.
func (s *Subscriber) accept() error {
	ev := &s.env
	ev.Topic = s.topic // Decode allocates only for another topic
	err := ev.Decode(s.msg.Body)
	reason := ""
	switch {
	case err != nil:
	case ev.Topic != s.topic:
		reason = fmt.Sprintf("topic %.64q in the envelope: want %q", ev.Topic, s.topic)
	case s.msg.HasIdentity && (s.msg.PublisherID != ev.PublisherID || s.msg.Sequence != ev.Sequence):
		reason = fmt.Sprintf("publisher %d, sequence %d in the frames, but %d, %d in the envelope: want the same",
			s.msg.PublisherID, s.msg.Sequence, ev.PublisherID, ev.Sequence)
	case s.onlyListed && !s.conn.departures.lists(ev.PublisherID):
		s.unlisted++
		return nil
	default:
		s.sequencer.add(Event{Envelope: *ev})
		return nil
	}
	s.bad++
	return &DecodeError{Subject: s.conn.subject, Reason: reason, Err: err}
}

// wrap adds the subscriber to an error. It returns errors of ctx as they are.
func (s *Subscriber) wrap(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("eventplane: subscriber of %s: %w", s.topic, translateClosed(err))
}

// Stats returns a snapshot of the counters.
func (s *Subscriber) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	seq := s.sequencer
	return Stats{
		Received: s.received, Dropped: s.conn.Dropped(),
		Duplicates: seq.stats.duplicates, OutOfOrder: seq.stats.outOfOrder, Restarts: seq.stats.restarts, DecodeErrors: s.bad, Unlisted: s.unlisted,
		Gaps: seq.stats.gaps, Missed: seq.stats.missed,
		Incompatible: s.conn.incompatible(), Publishers: seq.publishers(),
	}
}

// Shutdown ends the subscription. A call of Next that is blocked returns, first
// the events that are held for reordering, and then an error that wraps
// [ErrClosed]. Shutdown is idempotent and does not use its context; later calls
// return the first result.
func (s *Subscriber) Shutdown(context.Context) error {
	s.once.Do(func() {
		s.client.remove(s)
		if err := s.conn.Close(); err != nil {
			s.err = fmt.Errorf("eventplane: shutdown of the subscriber of %s: %w", s.topic, err)
		}
	})
	return s.err
}

// countDecodeError counts an event whose payload does not fit the type requested.
func (s *Subscriber) countDecodeError() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad++
}
