//go:build !cgo || nozmq

package zmq

import (
	"context"
	"errors"
	"fmt"

	"github.com/dynplane/dynplane/eventplane/driver"
)

var errUnsupported = fmt.Errorf("zmq: this program was built without ZeroMQ: "+
	"build it with a C compiler and libzmq's development package, CGO_ENABLED=1, and without the tag nozmq: %w",
	errors.ErrUnsupported)

// Version is empty: this build has no ZeroMQ.
func Version() string { return "" }

// Context owns the sockets opened with it. This build has none.
type Context struct{}

// New fails: this build has no ZeroMQ. The error wraps errors.ErrUnsupported.
func New(Options) (*Context, error) { return nil, errUnsupported }

// Close does nothing.
func (*Context) Close() error { return nil }

// DirectPublisher fails.
func (*Context) DirectPublisher(string) (*Publisher, error) { return nil, errUnsupported }

// BrokerPublisher fails.
func (*Context) BrokerPublisher(string) (*Publisher, error) { return nil, errUnsupported }

// Subscribe fails.
func (*Context) Subscribe(string) (*Subscriber, error) { return nil, errUnsupported }

type unconnected struct{}

// Connect fails.
func (unconnected) Connect(string) error { return errUnsupported }

// Disconnect fails.
func (unconnected) Disconnect(string) error { return errUnsupported }

// Ready fails.
func (unconnected) Ready(context.Context) error { return errUnsupported }

// Close does nothing.
func (unconnected) Close() error { return nil }

// Publisher sends messages. This build has none.
type Publisher struct{ unconnected }

// Endpoint is empty.
func (*Publisher) Endpoint() string { return "" }

// Publish fails.
func (*Publisher) Publish(context.Context, *driver.Message) error { return errUnsupported }

// Subscriber receives messages. This build has none.
type Subscriber struct{ unconnected }

// Next fails.
func (*Subscriber) Next(context.Context, *driver.Message) error { return errUnsupported }

// Dropped is 0.
func (*Subscriber) Dropped() uint64 { return 0 }
