package eventplane

import (
	"context"
	"fmt"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane/driver"
)

// plane is a way for events to travel. Its methods are safe for concurrent use.
type plane interface {
	publisher(context.Context, route) (*outlet, error)
	subscriber(context.Context, route) (*inlet, error)
	// close is called once, after what was opened is closed.
	close() error
}

// open picks the plane; c is resolved.
func open(c Config, d *discovery.Client) (plane, error) {
	switch {
	case c.Transport == discovery.TransportNATS:
		return newNATSPlane(c), nil
	case c.Broker.enabled():
		return newBrokerPlane(c, d)
	default:
		return newDirectPlane(c, d)
	}
}

// outlet is the open transport of a publisher.
type outlet struct {
	driver.Publisher
	subject   string
	transport discovery.Transport // to be registered
	follow    *follower           // nil where nothing is followed
}

// Close implements driver.Publisher.
func (o *outlet) Close() error {
	if o.follow != nil {
		o.follow.stop()
	}
	return o.Publisher.Close()
}

// receiver is a driver's subscriber that knows when it hears.
type receiver interface {
	driver.Subscriber
	Ready(context.Context) error
}

// inlet is the open transport of a subscriber.
type inlet struct {
	receiver
	subject string
	several bool      // an event can come by more than one path
	follow  *follower // nil where nothing is followed
}

// Ready blocks until what is known is connected and hears.
func (in *inlet) Ready(ctx context.Context) error {
	if in.follow != nil {
		if err := in.follow.wait(ctx); err != nil {
			return err
		}
	}
	return in.receiver.Ready(ctx)
}

// Close implements driver.Subscriber.
func (in *inlet) Close() error {
	if in.follow != nil {
		in.follow.stop()
	}
	return in.receiver.Close()
}

func (in *inlet) incompatible() int {
	if in.follow == nil {
		return 0
	}
	return int(in.follow.incompatible.Load())
}

// Ready blocks until the brokers that are known have subscribed. The other
// transports need no waiting: others connect to a publisher.
func (o *outlet) Ready(ctx context.Context) error {
	waiter, ok := o.Publisher.(interface{ Ready(context.Context) error })
	if !ok {
		return ctx.Err()
	}
	return waiter.Ready(ctx)
}

func connectAll(to driver.Connector, endpoints []string) error {
	for _, endpoint := range distinct(endpoints) {
		if err := to.Connect(endpoint); err != nil {
			return fmt.Errorf("connect to %s: %w", endpoint, err)
		}
	}
	return nil
}
