//go:build !cgo || nozmq

package broker

import (
	"context"
	"errors"
	"fmt"
)

var errUnsupported = fmt.Errorf("broker: this program was built without ZeroMQ: want CGO_ENABLED=1, "+
	"a C compiler, the development package of libzmq, and no tag nozmq: %w",
	errors.ErrUnsupported)

// Broker relays messages. In this build New returns none.
type Broker struct{}

// New returns an error that wraps errors.ErrUnsupported: this build has no
// ZeroMQ.
func New(Options) (*Broker, error) { return nil, errUnsupported }

// XSubEndpoint returns an empty endpoint.
func (*Broker) XSubEndpoint() string { return "" }

// XPubEndpoint returns an empty endpoint.
func (*Broker) XPubEndpoint() string { return "" }

// Stats returns zeros.
func (*Broker) Stats() Stats { return Stats{} }

// Run returns an error that wraps errors.ErrUnsupported.
func (*Broker) Run(context.Context) error { return errUnsupported }

// Close does nothing.
func (*Broker) Close() error { return nil }
