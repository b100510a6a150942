package eventplane

import (
	"context"
	"fmt"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane/driver"
)

// transport is a way for events to travel. Its methods are safe for concurrent use.
type transport interface {
	publisher(context.Context, route) (*pubConn, error)
	subscriber(context.Context, route) (*subConn, error)
	// close is called once, after what was opened is closed.
	close() error
}

// open picks the plane; c is resolved.
func open(c Config, d *discovery.Client) (transport, error) {
	switch {
	case c.Transport == discovery.TransportNATS:
		return newNATSTransport(c), nil
	case c.Broker.enabled():
		return newBrokerTransport(c, d)
	default:
		return newDirectTransport(c, d)
	}
}

// pubConn is the open transport of a publisher.
type pubConn struct {
	driver.Publisher
	subject    string
	advertised discovery.Transport // to be registered
	follow     *follower           // nil where nothing is followed
}

// Close implements driver.Publisher.
func (c *pubConn) Close() error {
	if c.follow != nil {
		c.follow.stop()
	}
	return c.Publisher.Close()
}

// receiver is a driver's subscriber that knows when it hears.
type receiver interface {
	driver.Subscriber
	Ready(context.Context) error
}

// subConn is the open transport of a subscriber.
type subConn struct {
	receiver
	subject   string
	multipath bool      // an event can arrive on more than one path
	follow    *follower // nil where nothing is followed
}

// Ready blocks until what is known is connected and hears.
func (c *subConn) Ready(ctx context.Context) error {
	if c.follow != nil {
		if err := c.follow.wait(ctx); err != nil {
			return err
		}
	}
	return c.receiver.Ready(ctx)
}

// Close implements driver.Subscriber.
func (c *subConn) Close() error {
	if c.follow != nil {
		c.follow.stop()
	}
	return c.receiver.Close()
}

func (c *subConn) incompatible() int {
	if c.follow == nil {
		return 0
	}
	return int(c.follow.incompatible.Load())
}

// Ready blocks until the brokers that are known have subscribed. The other
// transports need no waiting: others connect to a publisher.
func (c *pubConn) Ready(ctx context.Context) error {
	waiter, ok := c.Publisher.(interface{ Ready(context.Context) error })
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
