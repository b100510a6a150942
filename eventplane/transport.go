package eventplane

import (
	"context"
	"net/netip"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane/driver"
)

// transport opens the connections of publishers and subscribers. Its methods
// are safe for concurrent use.
type transport interface {
	publisher(ctx context.Context, r route, id uint64) (*pubConn, error)
	subscriber(ctx context.Context, r route, queue driver.QueueOptions) (*subConn, error)
	// close is called once, after all connections are closed.
	close() error
}

// openTransport opens the transport that c selects. c must be resolved.
func openTransport(c Config, d *discovery.Client) (transport, error) {
	if c.Transport == discovery.TransportNATS {
		return newNATSTransport(c), nil
	}
	return newZMQTransport(c, d)
}

// pubConn is the connection of a publisher: its driver, and the follower that
// connects the driver to brokers.
type pubConn struct {
	driver.Publisher
	subject    string
	advertised discovery.Transport // to be registered
	follow     *follower           // nil if discovery is not followed

	blocks bool       // Publish may block, and Close too
	host   netip.Addr // of a replay address, on ZMQ
}

// advertiseReplay adds an address, unless it is empty, to what is registered.
func (c *pubConn) advertiseReplay(address string) (err error) {
	if address == "" {
		return nil
	}
	if address, err = advertisedEndpoint(address, c.host); err != nil {
		return err
	}
	switch t := c.advertised.(type) {
	case discovery.ZMQ:
		t.ReplayEndpoint = address
		c.advertised = t
	case discovery.ZMQBroker:
		t.ReplayEndpoint = address
		c.advertised = t
	}
	return nil
}

// Close implements driver.Publisher.
func (c *pubConn) Close() error {
	if c.follow != nil {
		c.follow.stop()
	}
	return c.Publisher.Close()
}

// subConn is the connection of a subscriber: its driver, and the follower that
// connects the driver to publishers or brokers.
type subConn struct {
	driver.Subscriber
	subject   string
	multipath bool      // an event can arrive on more than one path
	follow    *follower // of peers; nil if discovery is not followed
	channels  *follower // of publishers that are not peers; nil if they are not followed

	departures *departures // nil unless publishers are followed
}

// Ready blocks until the driver is connected to all peers that discovery has
// found, and ready.
func (c *subConn) Ready(ctx context.Context) error {
	if c.follow != nil {
		if err := c.follow.wait(ctx); err != nil {
			return err
		}
	}
	return c.Subscriber.Ready(ctx)
}

// Close implements driver.Subscriber.
func (c *subConn) Close() error {
	for _, f := range []*follower{c.follow, c.channels} {
		if f != nil {
			f.stop()
		}
	}
	if c.departures != nil {
		c.departures.end()
	}
	return c.Subscriber.Close()
}

// incompatible returns Stats.Incompatible.
func (c *subConn) incompatible() int {
	n := int64(0)
	for _, f := range []*follower{c.follow, c.channels} {
		if f != nil {
			n += f.incompatible.Load()
		}
	}
	return int(n)
}
