//go:build !cgo || nozmq

package broker

import (
	"context"
	"errors"
	"fmt"
)

var errUnsupported = fmt.Errorf("broker: this program was built without ZeroMQ: "+
	"build it with a C compiler and libzmq's development package, CGO_ENABLED=1, and without the tag nozmq: %w",
	errors.ErrUnsupported)

// Broker relays messages. This build has none.
type Broker struct{}

// New fails: this build has no ZeroMQ. The error wraps errors.ErrUnsupported.
func New(Options) (*Broker, error) { return nil, errUnsupported }

// XSubEndpoint is empty.
func (*Broker) XSubEndpoint() string { return "" }

// XPubEndpoint is empty.
func (*Broker) XPubEndpoint() string { return "" }

// Stats is zero.
func (*Broker) Stats() Stats { return Stats{} }

// Run fails.
func (*Broker) Run(context.Context) error { return errUnsupported }

// Close does nothing.
func (*Broker) Close() error { return nil }
