package eventplane

import (
	"errors"
	"fmt"

	"github.com/dynplane/dynplane/eventplane/driver"
)

var (
	// ErrClosed is returned, wrapped, by the methods of a client, publisher or
	// subscriber that has been shut down. Shutdown itself can be called again.
	ErrClosed = errors.New("shut down")

	// ErrNoDiscovery is returned, wrapped, by Client.Publisher, and by
	// Client.Subscriber if it has to find its peers by discovery, when New was
	// called without a discovery client.
	ErrNoDiscovery = errors.New("no discovery client was given to New")
)

// translateClosed replaces the ErrClosed of drivers with that of this package.
func translateClosed(err error) error {
	if errors.Is(err, driver.ErrClosed) {
		return ErrClosed
	}
	return err
}

// DecodeError reports a message that is not a valid event. It is the only error
// of a subscriber after which the stream continues.
type DecodeError struct {
	Subject string // subject of the message on the transport, or topic of the event
	Reason  string // problem and expectation; may be empty if Err is not nil
	Err     error  // cause, or nil
}

// Error implements error.
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
