// Package driver defines the contract between the event plane and a transport.
//
// Applications do not use it. They use package eventplane, which selects a
// driver from its configuration and adds what all transports share: the
// envelope, deduplication, gap detection and decoding. A driver only moves
// bytes. Every driver must pass the conformance suite of package
// eventplane/drivertest.
//
// # Implementing a driver
//
// A driver implements [Publisher] and [Subscriber], and [Connector] if its peers
// are found one by one. Publish must not wait for subscribers. Queues must be
// bounded in bytes, and dropped messages counted. All methods but Close return
// [ErrClosed] after Close; Next returns a [*FrameError] for input that is not a
// message.
package driver

import (
	"context"
	"errors"
	"fmt"
)

// ErrClosed is returned by every method of a publisher or subscriber that has
// been closed, except Close.
var ErrClosed = errors.New("driver closed")

// Kind distinguishes events from the control messages of the event plane.
type Kind uint8

// The kinds. A control message has no body. Its Sequence is that of the next event
// of its publisher: the events before it have been sent, the last of them at
// PublishedAt.
const (
	// Event is a message of the application.
	Event Kind = iota

	// Ready follows a new subscription that has reached the publisher: all events
	// from Sequence on will arrive on this path.
	Ready

	// Tick is sent by a publisher that rests, so that the loss of its last events
	// is noticed. Publishers that are not of this module send none.
	Tick

	// Dropped is not sent: the queue of a subscriber has it in place of the first event
	// of a publisher that it dropped. Sequence is that of the event.
	Dropped
)

// Message is one event or control message as a transport carries it.
type Message struct {
	Kind Kind

	// Subject is the key that the transport routes by: the NATS subject, or
	// frame 0 on ZMQ.
	Subject string

	// PublisherID and Sequence are those of the envelope. HasIdentity reports
	// whether a received message has them: on ZMQ, which carries them outside
	// of the body, but not on NATS.
	PublisherID uint64
	Sequence    uint64
	HasIdentity bool

	// PublishedAt is the time in Unix milliseconds in the envelope of an event. Publish
	// needs it. In a control message it is that of the event before Sequence, or, if
	// there is none, of the start of the publisher. Next sets it for control messages
	// only.
	PublishedAt uint64

	// Body is the encoded envelope. Publish must not retain it. A body that
	// Next returns belongs to the caller and must never be written to again.
	Body []byte
}

// Publisher sends messages. The event plane does not call Publish and Close
// concurrently, nor either of them twice at a time.
type Publisher interface {
	// Publish passes m, an Event or a Tick, to the transport without waiting for
	// subscribers. Delivery is at most once: a nil error does not mean that m was
	// delivered. While the transport has no connection, Publish blocks until it has
	// one or ctx is done; m has not been sent then. The error may be one that the
	// peer reported for an earlier message, such as a refused permission.
	Publish(ctx context.Context, m *Message) error

	// Check returns the error that Publish would return for a body of size bytes, as
	// far as it is known beforehand. It does not block, and is safe for concurrent
	// use.
	Check(size int) error

	// Ready blocks until events that are published from now on are forwarded to
	// all peers that are connected, or ctx is done. It is safe for concurrent use.
	Ready(ctx context.Context) error

	// Close sends queued messages, within a bounded time, and releases the
	// resources of the transport. It is idempotent.
	Close() error
}

// SubscriberWaiter is implemented by publishers that can count their subscribers.
type SubscriberWaiter interface {
	// WaitSubscribers blocks until at least n subscribers receive what is published
	// from now on, or ctx is done. The error wraps errors.ErrUnsupported if
	// subscribers are connected in a way that does not let them be counted, such as
	// through a broker. It is safe for concurrent use.
	WaitSubscribers(ctx context.Context, n int) error
}

// DropCounter is implemented by publishers that drop events while peers do not read.
type DropCounter interface {
	// Dropped returns the number of events for which Publish returned nil, and which
	// it sent to no peer. It is safe for concurrent use.
	Dropped() uint64
}

// Subscriber receives the messages of one subject.
type Subscriber interface {
	// Next fills m with the next message, of any kind. It blocks until a message arrives,
	// ctx is done, or the subscriber is closed. A *FrameError reports input
	// that is not a message; the stream continues. After the error of ctx,
	// Next may be called again and no message is lost. Any other error is
	// final. Next must be called by one goroutine at a time.
	Next(ctx context.Context, m *Message) error

	// Ready blocks until events that the connected peers publish from now on
	// arrive, or ctx is done. It is safe for concurrent use.
	Ready(ctx context.Context) error

	// Dropped returns the number of messages that arrived and were dropped
	// because Next was not called often enough. It is safe for concurrent use.
	Dropped() uint64

	// Queued returns the number of messages that have arrived and wait for Next. It is
	// safe for concurrent use.
	Queued() int

	// Close releases the resources of the transport and makes Next return. It
	// is idempotent and safe for concurrent use.
	Close() error
}

// Connector is implemented by publishers and subscribers of a transport whose
// peers are found one by one (ZMQ). Both methods are safe for concurrent use
// with all others. The endpoints are a set: connecting twice or disconnecting an
// unknown endpoint has no effect.
type Connector interface {
	// Connect adds an endpoint. It does not block until the peer is reachable.
	Connect(endpoint string) error

	// Disconnect removes an endpoint.
	Disconnect(endpoint string) error
}

// ProvingConnector is implemented by subscribers that can wait for a proof of a peer.
type ProvingConnector interface {
	Connector

	// ConnectProving is like Connect, for a publisher of this module: it proves that
	// it has the subscription, and Ready waits for that.
	ConnectProving(endpoint string) error
}

// History has the events that a publisher sent last. The event plane implements
// it, drivers serve it.
type History interface {
	// Slice appends to dst the events that are kept of the sequences from first to
	// last, in order, until it has limit events or maxBytes of bodies, but at least
	// one event if any is kept. The messages are copies. It is safe for concurrent
	// use, and delays publishing for a moment only.
	Slice(dst []Message, first, last uint64, limit, maxBytes int) []Message
}

// ReplayServer is implemented by publishers that can send events again.
type ReplayServer interface {
	// ServeReplay answers requests for the events of h until Close. It returns the
	// address to register, which is empty if subscribers need none. It must be
	// called once at most, before the first Publish.
	ServeReplay(publisherID uint64, h History) (address string, err error)
}

// MaxReplay is the largest number of events that one call of Replay delivers.
const MaxReplay = 512

// ErrNoReplay is returned by Replay if the publisher answers no such requests.
var ErrNoReplay = errors.New("publisher does not replay events")

// ReplayRequest selects the events of one publisher. The range may be of any size,
// such as from 0 to the largest sequence.
type ReplayRequest struct {
	PublisherID uint64
	Address     string // as ServeReplay returned it
	First, Last uint64 // sequences
}

// Replayer is implemented by subscribers that can request events again.
type Replayer interface {
	// Replay requests the events and calls deliver with the first of those that the
	// publisher still has, in order, MaxReplay at most. It returns nil once the answer
	// is complete: events up to the last one delivered that were not delivered are no
	// longer kept, nor are any if deliver was not called. The caller requests the
	// events after the last one delivered by another call.
	//
	// Otherwise Replay returns ErrNoReplay, the error of ctx, or another error, after
	// which the request may be repeated for the events that have not been delivered.
	// deliver may block. Replay is safe for concurrent use.
	Replay(ctx context.Context, r ReplayRequest, deliver func(*Message)) error
}

// FrameError reports input that is not a message.
type FrameError struct {
	Subject string // empty if it was not received
	Reason  string // the fault, and the wanted form
}

// Error returns the subject and the reason.
func (e *FrameError) Error() string {
	return fmt.Sprintf("malformed message on %q: %s", e.Subject, e.Reason)
}
