package eventplane

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is wrapped by the errors of a client, publisher or subscriber
	// that has been shut down.
	ErrClosed = errors.New("shut down")

	// ErrNoDiscovery is wrapped when New was given no discovery client and a
	// publisher, or a subscriber that finds its peers by discovery, was asked for.
	ErrNoDiscovery = errors.New("no discovery client was given to New")
)

// DecodeError reports a message that is no valid event. It is the one error of
// a stream after which the stream goes on.
type DecodeError struct {
	Subject string // what the transport routed the message by
	Reason  string // what was wrong, and what was wanted; may be empty if Err is not nil
	Err     error  // the cause, if there is one beneath
}

func (e *DecodeError) Error() string {
	switch {
	case e.Err == nil:
		return fmt.Sprintf("eventplane: bad message on %q: %s", e.Subject, e.Reason)
	case e.Reason == "":
		return fmt.Sprintf("eventplane: bad message on %q: %v", e.Subject, e.Err)
	}
	return fmt.Sprintf("eventplane: bad message on %q: %s: %v", e.Subject, e.Reason, e.Err)
}

// Unwrap returns the cause.
func (e *DecodeError) Unwrap() error { return e.Err }
