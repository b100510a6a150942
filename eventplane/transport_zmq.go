package eventplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane/driver"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
)

// brokerComponent is where brokers register, in any namespace.
const brokerComponent = "zmq_broker"

func (c Config) zmq() zmqdriver.Options {
	return zmqdriver.Options{IOThreads: c.IOThreads, QueueSize: c.QueueSize, Logger: c.Logger}
}

// directTransport is ZMQ from each publisher to each subscriber.
type directTransport struct {
	ctx       *zmqdriver.Context
	config    Config
	discovery *discovery.Client
}

func newDirectTransport(c Config, d *discovery.Client) (*directTransport, error) {
	ctx, err := zmqdriver.New(c.zmq())
	return &directTransport{ctx, c, d}, err
}

func (d *directTransport) publisher(_ context.Context, r route) (*pubConn, error) {
	host := d.config.Host
	if host == "" {
		host = localHost()
	}
	addr, err := parseHost(host)
	if err != nil {
		return nil, err
	}
	pub, err := d.ctx.DirectPublisher(listenAddr(addr).String())
	if err != nil {
		return nil, err
	}
	endpoint, err := advertised(pub.Endpoint(), addr)
	if err != nil {
		return nil, errors.Join(err, pub.Close())
	}
	return &pubConn{
		Publisher: pub, subject: r.directSubject(),
		advertised: discovery.ZMQ{Endpoint: endpoint},
	}, nil
}

// listenAddr is where to listen when others are told addr: that address may be
// of the other side of a NAT, so only loopback, which must not leave this
// machine, is taken literally.
func listenAddr(addr netip.Addr) netip.Addr {
	switch {
	case addr.IsLoopback():
		return addr
	case addr.Is4():
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// advertised is a bound endpoint with the host that others can reach.
func advertised(bound string, host netip.Addr) (string, error) {
	_, port, err := net.SplitHostPort(strings.TrimPrefix(bound, "tcp://"))
	if err != nil {
		return "", fmt.Errorf("bound endpoint %q: want tcp://HOST:PORT: %w", bound, err)
	}
	return "tcp://" + net.JoinHostPort(host.String(), port), nil
}

func (d *directTransport) subscriber(_ context.Context, r route) (*subConn, error) {
	if d.discovery == nil {
		return nil, ErrNoDiscovery
	}
	sub, err := d.ctx.Subscribe(r.directSubject())
	if err != nil {
		return nil, err
	}
	follow := &follower{
		discovery: d.discovery, log: d.config.Logger, to: sub,
		query:     discovery.Query{Kind: discovery.KindEventChannel, Scope: r.scope, Topic: r.topic},
		endpoints: r.directEndpoints,
	}
	follow.start()
	return &subConn{receiver: sub, subject: r.directSubject(), follow: follow}, nil
}

func (d *directTransport) close() error { return d.ctx.Close() }

// directEndpoints takes the channels of exactly this scope: a query finds those
// below it too.
func (r route) directEndpoints(ch discovery.EventChannel) (endpoints []string, incompatible bool) {
	if ch.Scope != r.scope || ch.Topic != r.topic {
		return nil, false
	}
	if t, ok := ch.Transport.(discovery.ZMQ); ok {
		return []string{t.Endpoint}, false
	}
	return nil, true
}

// brokerTransport is ZMQ through brokers.
type brokerTransport struct {
	ctx       *zmqdriver.Context
	config    Config
	discovery *discovery.Client
}

func newBrokerTransport(c Config, d *discovery.Client) (*brokerTransport, error) {
	ctx, err := zmqdriver.New(c.zmq())
	return &brokerTransport{ctx, c, d}, err
}

func (b *brokerTransport) publisher(ctx context.Context, r route) (*pubConn, error) {
	pub, err := b.ctx.BrokerPublisher(r.brokerSubject())
	if err != nil {
		return nil, err
	}
	out := &pubConn{Publisher: pub, subject: r.brokerSubject()}
	out.follow, err = b.attach(r, pub, b.config.Broker.XSub, func(t discovery.ZMQBroker) []string { return t.XSubEndpoints })
	if err == nil {
		out.advertised, err = b.transport(ctx, r, out.follow)
	}
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

// transport is what a publisher registers: the brokers that it uses now.
// Nobody connects by it, so it is not kept up to date.
func (b *brokerTransport) transport(ctx context.Context, r route, follow *follower) (discovery.Transport, error) {
	if follow == nil {
		return discovery.ZMQBroker{XSubEndpoints: b.config.Broker.XSub, XPubEndpoints: b.config.Broker.XPub}, nil
	}
	if err := follow.wait(ctx); err != nil {
		return nil, err
	}
	var all discovery.ZMQBroker
	found, err := b.discovery.List(ctx, follow.query)
	for _, in := range found {
		if ch, ok := in.Spec.(discovery.EventChannel); ok {
			if t, ok := brokerOf(r, ch); ok {
				all.XSubEndpoints = append(all.XSubEndpoints, t.XSubEndpoints...)
				all.XPubEndpoints = append(all.XPubEndpoints, t.XPubEndpoints...)
			}
		}
	}
	if err == nil && len(all.XSubEndpoints) == 0 {
		b.config.Logger.Warn("eventplane: no broker is registered yet; until one is, what is published goes nowhere",
			"scope", follow.query.Scope.String(), "topic", r.topic)
	}
	return all, err
}

func (b *brokerTransport) subscriber(_ context.Context, r route) (*subConn, error) {
	sub, err := b.ctx.Subscribe(r.brokerSubject())
	if err != nil {
		return nil, err
	}
	in := &subConn{receiver: sub, subject: r.brokerSubject(), multipath: b.config.Broker.multipath()}
	in.follow, err = b.attach(r, sub, b.config.Broker.XPub, func(t discovery.ZMQBroker) []string { return t.XPubEndpoints })
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return in, nil
}

// attach connects to the endpoints that are given, or follows discovery to
// those that side takes of each broker.
func (b *brokerTransport) attach(r route, to driver.Connector, given []string, side func(discovery.ZMQBroker) []string) (*follower, error) {
	if len(given) > 0 {
		return nil, connectAll(to, given)
	}
	if b.discovery == nil {
		return nil, ErrNoDiscovery
	}
	follow := &follower{
		discovery: b.discovery, log: b.config.Logger, to: to,
		query: discovery.Query{Kind: discovery.KindEventChannel, Scope: r.brokerScope()},
		endpoints: func(ch discovery.EventChannel) ([]string, bool) {
			t, _ := brokerOf(r, ch)
			return side(t), false
		},
	}
	follow.start()
	return follow, nil
}

// brokerScope is where the brokers register that a route goes through.
func (r route) brokerScope() discovery.Scope {
	return discovery.Scope{Namespace: r.scope.Namespace, Component: brokerComponent}
}

// brokerOf returns the broker that a channel is, if it is one of the route's.
func brokerOf(r route, ch discovery.EventChannel) (discovery.ZMQBroker, bool) {
	t, ok := ch.Transport.(discovery.ZMQBroker)
	if !ok || ch.Scope != r.brokerScope() {
		return discovery.ZMQBroker{}, false
	}
	return t, true
}

func (b *brokerTransport) close() error { return b.ctx.Close() }
