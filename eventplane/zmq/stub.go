//go:build !cgo || nozmq

package zmq

import (
	"context"
	"errors"
	"fmt"

	"github.com/dynplane/dynplane/eventplane/driver"
)

var errUnsupported = fmt.Errorf("zmq: this program was built without ZeroMQ: want CGO_ENABLED=1, "+
	"a C compiler, the development package of libzmq, and no tag nozmq: %w",
	errors.ErrUnsupported)

// Version returns an empty string: this build has no ZeroMQ.
func Version() string { return "" }

// Context owns the sockets opened with it. In this build New returns none.
type Context struct{}

// New returns an error that wraps errors.ErrUnsupported: this build has no
// ZeroMQ.
func New(Options) (*Context, error) { return nil, errUnsupported }

// Close does nothing.
func (*Context) Close() error { return nil }

// DirectPublisher returns an error that wraps errors.ErrUnsupported.
func (*Context) DirectPublisher(_, _ string, _ uint64) (*Publisher, error) {
	return nil, errUnsupported
}

// BrokerPublisher returns an error that wraps errors.ErrUnsupported.
func (*Context) BrokerPublisher(string) (*Publisher, error) { return nil, errUnsupported }

// Subscribe returns an error that wraps errors.ErrUnsupported.
func (*Context) Subscribe(string) (*Subscriber, error) { return nil, errUnsupported }

// SubscribeWith returns an error that wraps errors.ErrUnsupported.
func (*Context) SubscribeWith(string, driver.QueueOptions) (*Subscriber, error) {
	return nil, errUnsupported
}

type unconnected struct{}

// Connect returns an error that wraps errors.ErrUnsupported.
func (unconnected) Connect(string) error { return errUnsupported }

// ConnectProving returns an error that wraps errors.ErrUnsupported.
func (*Subscriber) ConnectProving(string) error { return errUnsupported }

// Disconnect returns an error that wraps errors.ErrUnsupported.
func (unconnected) Disconnect(string) error { return errUnsupported }

// Ready returns an error that wraps errors.ErrUnsupported.
func (unconnected) Ready(context.Context) error { return errUnsupported }

// Close does nothing.
func (unconnected) Close() error { return nil }

// Publisher sends messages. This build opens none.
type Publisher struct{ unconnected }

// Endpoint returns an empty endpoint.
func (*Publisher) Endpoint() string { return "" }

// Check returns an error that wraps errors.ErrUnsupported.
func (*Publisher) Check(int) error { return errUnsupported }

// Publish returns an error that wraps errors.ErrUnsupported.
func (*Publisher) Publish(context.Context, *driver.Message) error { return errUnsupported }

// Dropped returns 0.
func (*Publisher) Dropped() uint64 { return 0 }

// WaitSubscribers returns an error that wraps errors.ErrUnsupported.
func (*Publisher) WaitSubscribers(context.Context, int) error { return errUnsupported }

// ServeReplay returns an error that wraps errors.ErrUnsupported.
func (*Publisher) ServeReplay(uint64, driver.History) (string, error) { return "", errUnsupported }

// Subscriber receives messages. This build opens none.
type Subscriber struct{ unconnected }

// Next returns an error that wraps errors.ErrUnsupported.
func (*Subscriber) Next(context.Context, *driver.Message) error { return errUnsupported }

// ConnectProbe returns an error that wraps errors.ErrUnsupported.
func (*Subscriber) ConnectProbe(string) error { return errUnsupported }

// DisconnectProbe returns an error that wraps errors.ErrUnsupported.
func (*Subscriber) DisconnectProbe(string) error { return errUnsupported }

// Queued returns 0.
func (*Subscriber) Queued() int { return 0 }

// Dropped returns 0.
func (*Subscriber) Dropped() uint64 { return 0 }

// Replay returns an error that wraps errors.ErrUnsupported.
func (*Subscriber) Replay(context.Context, driver.ReplayRequest, func(*driver.Message)) error {
	return errUnsupported
}
