package requestplane

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is returned by calls on a client or server that is closed.
	ErrClosed = errors.New("closed")

	// ErrStopped is the cause of a handler's context, and the error of its send
	// function, if the client has ended the call. That is no fault: clients
	// that need only the first item do so.
	ErrStopped = errors.New("the client has ended the call")

	// ErrIncomplete is returned, wrapped, if an answer ends before its last frame.
	ErrIncomplete = errors.New("the answer ended before it was complete")

	// ErrNoItem is returned, wrapped, by One if an answer is complete without an item.
	ErrNoItem = errors.New("the answer has no item")

	// ErrFormat is returned, wrapped, if the bytes of a peer are not of this
	// protocol.
	ErrFormat = errors.New("invalid bytes")

	// ErrTooLarge is returned, wrapped, for a frame above the limit.
	ErrTooLarge = errors.New("message too large")
)

// RefusedError reports that a server has refused a request. The handler has not
// been called.
type RefusedError struct {
	// Reason is the server's text, cut after 1,024 bytes. It begins with
	// "Server overloaded:" or "Server unavailable:" where a retry, here or at
	// another server, may succeed.
	Reason string
}

// Error implements error.
func (e *RefusedError) Error() string { return "request refused: " + e.Reason }

// RemoteError reports that a handler failed before its first item.
type RemoteError struct {
	Message string // the server's text, cut after 1,024 bytes
}

// Error implements error.
func (e *RemoteError) Error() string { return "handler failed: " + e.Message }

// invalid returns an error that wraps ErrFormat.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// excerpt returns the beginning of untrusted text.
func excerpt[T string | []byte](text T) string {
	const most = 1024
	return string(text[:min(len(text), most)])
}
