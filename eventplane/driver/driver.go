// Package driver is the contract between the event plane and a transport.
//
// Applications do not use it: they use package eventplane, which picks a
// driver from its configuration and adds what all transports share (the
// envelope, deduplication, gap detection, decoding). A driver moves bytes and
// nothing else. The conformance suite that every driver passes is package
// eventplane/drivertest.
package driver

import (
	"context"
	"errors"
	"fmt"
)

// ErrClosed is returned by every method of a driver that has been closed.
var ErrClosed = errors.New("driver closed")

// Message is one event as a transport carries it.
type Message struct {
	// Subject is what the transport routes by: the NATS subject, or frame 0
	// on ZMQ.
	Subject string

	// PublisherID and Sequence are those of the envelope. A transport that
	// carries them outside of the body (ZMQ does, NATS does not) sets
	// HasIdentity on what it receives.
	PublisherID uint64
	Sequence    uint64
	HasIdentity bool

	// Body is the encoded envelope. Publish does not keep it. One that Next
	// returns belongs to the receiver and is never written to again.
	Body []byte
}

// Publisher sends messages. Publish and Close are not called at the same time
// by two goroutines; the event plane sees to that.
type Publisher interface {
	// Publish hands m to the transport and returns without waiting for
	// subscribers. Delivery is at most once: nil is no proof that anybody
	// heard it.
	Publish(ctx context.Context, m *Message) error

	// Close sends what is queued, within a bounded time, and releases the
	// transport's resources. It is idempotent.
	Close() error
}

// Subscriber receives the messages of one subject.
type Subscriber interface {
	// Next blocks until a message arrives, ctx is done, or the subscriber is
	// closed. It fills m. A *FrameError says that something arrived that is
	// no message; the stream goes on. Any other error is final, except that
	// of ctx, after which Next can be called again: nothing is lost by it.
	// Next is called by one goroutine at a time.
	Next(ctx context.Context, m *Message) error

	// Dropped counts the messages that arrived and were thrown away because
	// the application did not call Next often enough. Safe for concurrent use.
	Dropped() uint64

	// Close releases the transport's resources and wakes Next. It is
	// idempotent and safe for concurrent use.
	Close() error
}

// Connector is implemented by the publishers and subscribers of a transport
// whose peers are found one by one (ZMQ). Both methods are safe for concurrent
// use with all others, and idempotent: an endpoint is connected or it is not.
type Connector interface {
	Connect(endpoint string) error
	Disconnect(endpoint string) error
}

// FrameError reports something on the wire that is not a message.
type FrameError struct {
	Subject string // as far as it is known
	Reason  string // what was wrong, and what was wanted
}

func (e *FrameError) Error() string {
	return fmt.Sprintf("malformed message on %q: %s", e.Subject, e.Reason)
}
