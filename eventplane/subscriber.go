package eventplane

import (
	"cmp"
	"context"
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

	// Gap, unless nil, reports events that were lost or recovered, if
	// SubscriberOptions.Gaps is set. Such an Event has no payload, and of the envelope
	// only PublisherID and Topic.
	Gap *Gap

	// Missed is the number of events of the same publisher that were lost since the
	// one before. It counts no events of before the subscriber joined, or before the
	// first one received after the publisher was restarted.
	Missed uint64
}

// Gap is a range of events of one publisher that did not arrive in time. A lost event
// that arrives before any later one is delivered nevertheless, and no longer counted.
type Gap struct {
	PublisherID uint64
	First, Last uint64 // sequences

	// Recovered reports that the events were requested again and delivered: the last
	// ones before the Gap. Otherwise they are lost, and counted in Missed of the next
	// event, which may be delivered much later.
	Recovered bool
}

// SubscriberOptions are the settings of one [Subscriber]. The zero value is that of
// [Client.Subscriber].
type SubscriberOptions struct {
	// Gaps makes Next return each gap as an Event of its own; see Event.Gap.
	Gaps bool

	// Recover requests events that are missing from their publishers, which keep the
	// last ones. The later events of such a publisher wait meanwhile, within bounds,
	// and those of others do not. Events are lost if the publisher does not keep them
	// any more, if it does not replay events, if it does not answer for some seconds,
	// or if the subscriber is slower than the publisher for so long that recovering
	// does not catch up.
	Recover bool

	// FromStart makes the subscriber begin with the events that each publisher keeps,
	// instead of those that are published from now on. It implies Recover. Publishers
	// are found by discovery, or without it by their first message.
	FromStart bool

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
	Gaps         uint64 // ranges of events that were lost
	Missed       uint64 // events that were lost: the sum of the events' Missed, and of those that the next events will have
	Recovered    uint64 // events that filled a gap after they were requested again

	// Incompatible is the number of channels that are registered now in the
	// scope and topic with a transport that this subscriber does not use. They
	// are counted on ZMQ without a broker. On NATS, if Config.Transport is a
	// default, it is their number when the subscriber was opened.
	Incompatible int

	// Publishers maps the id of each publisher to the sequence of the last
	// event that was delivered or lost. It contains the 65,536 publishers whose events arrived last. On ZMQ
	// without a broker, and on NATS where gaps are recovered, publishers that are no
	// longer registered are removed after a few seconds.
	Publishers map[uint64]uint64

	// LastProof maps the id of each publisher to the time since its last event or
	// sign of life arrived. Publishers of this module send one every 5 seconds at
	// least. Whether a publisher that has crashed had published more is not known.
	LastProof map[uint64]time.Duration
}

// Subscriber receives the events of one scope and topic. Next must be called by
// one goroutine at a time. All other methods are safe for concurrent use, also
// during Next.
type Subscriber struct {
	client  *Client
	topic   string
	conn    *subConn
	replays *replayClient // nil unless gaps are recovered
	opened  time.Time     // zero of the sequencer's clock

	msg driver.Message // reused by Next
	env codec.Envelope // reused by Next

	onlyListed bool // events of other publishers are not delivered

	once sync.Once
	err  error // of Shutdown

	mu        sync.Mutex
	sequencer *sequencer
	wake      context.CancelFunc // interrupts Next while it waits; nil while it does not
	ended     bool               // the stream has ended, and all events that were held are released
	taken     uint64             // messages received
	due       dueMark
	credit    int // grows with messages received, and is spent on replayed events
	received  uint64
	bad       uint64 // decode errors
	unlisted  uint64
}

// newSubscriber opens the connection. With Recover, it also follows the channels of
// publishers that the connection does not follow.
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
	o.Recover = o.Recover || o.FromStart
	onlyListed := conn.departures != nil && c.config.Wire != WireGen1 // ids of its channels can differ from those of its events
	switch {
	case o.Recover && conn.departures == nil && c.discovery != nil:
		conn.departures = &departures{queued: conn.Queued}
		conn.channels = c.followChannels(r, conn.departures)
	case conn.follow == nil:
		conn.channels = c.compareTransports(r)
	}
	s := openSubscriber(c, topic, conn, o)
	s.onlyListed = onlyListed
	return s, nil
}

// openSubscriber returns a subscriber on a connection.
func openSubscriber(c *Client, topic string, conn *subConn, o SubscriberOptions) *Subscriber {
	s := &Subscriber{client: c, topic: topic, conn: conn, opened: time.Now(), sequencer: newSequencer(conn.multipath)}
	s.sequencer.topic, s.sequencer.reportGaps = topic, o.Gaps
	if source, ok := conn.Subscriber.(driver.Replayer); ok && o.Recover {
		s.replays = newReplayClient(source, topic, conn.departures.replayAddress, s.wakeUp)
		s.sequencer.recoverer = recoverer{start: s.replays.start, fromStart: o.FromStart}
		s.sequencer.held.timeout = recoverTimeout
	}
	if conn.departures != nil {
		conn.departures.attach(s.sequencer, &s.mu)
	}
	return s
}

// Ready blocks until the subscription is in effect, so that events published
// after Ready returns nil are received: on NATS when the server has the
// subscription, on ZMQ when all peers that discovery has found are connected and
// each has proved that it has it. A publisher of another library, which cannot prove
// it, is assumed to have it 100 ms after the handshake, and a broker that the
// subscriber cannot publish to after a second. A peer that is down keeps Ready
// blocked.
//
// The error is that of ctx, or wraps [ErrClosed] after Shutdown, or the cause if
// the transport has failed for good.
func (s *Subscriber) Ready(ctx context.Context) error { return s.wrap(ctx, s.conn.Ready(ctx)) }

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
	last, proof := seq.publishers(time.Since(s.opened))
	return Stats{
		Received: s.received, Dropped: s.conn.Dropped(),
		Duplicates: seq.stats.duplicates, OutOfOrder: seq.stats.outOfOrder, Restarts: seq.stats.restarts, DecodeErrors: s.bad, Unlisted: s.unlisted,
		Gaps: seq.stats.gaps, Missed: seq.stats.missed, Recovered: seq.stats.recovered,
		Incompatible: s.conn.incompatible(), Publishers: last, LastProof: proof,
	}
}

// Shutdown ends the subscription. A call of Next that is blocked returns, first
// the events that are held behind a gap, and then an error that wraps
// [ErrClosed]. Shutdown is idempotent and does not use its context; later calls
// return the first result.
func (s *Subscriber) Shutdown(context.Context) error {
	s.once.Do(func() {
		s.client.remove(s)
		if s.replays != nil {
			s.replays.close()
		}
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
