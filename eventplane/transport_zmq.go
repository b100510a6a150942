package eventplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane/driver"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
)

// zmqTransport holds what the direct transport and the broker transport share.
type zmqTransport struct {
	ctx       *zmqdriver.Context
	config    Config
	discovery *discovery.Client // may be nil
}

// newZMQTransport fails in programs that are built without ZMQ.
func newZMQTransport(c Config, d *discovery.Client) (transport, error) {
	ctx, err := zmqdriver.New(zmqdriver.Options{
		IOThreads: c.IOThreads, QueueSize: c.QueueSize, QueueBytes: c.QueueBytes,
		ReplayHost: replayHost(c), ControlBody: controlBody(c.Codec), ControlTime: controlTime, Logger: c.Logger,
	})
	if err != nil {
		return nil, err
	}
	shared := zmqTransport{ctx, c, d}
	if c.Broker.enabled() {
		return &brokerTransport{shared}, nil
	}
	return &directTransport{shared}, nil
}

// replayHost returns the address on which publishers behind brokers answer requests
// for replay, or an empty string if the host is not an address.
func replayHost(c Config) string {
	host := c.Host
	if host == "" {
		host = localHost()
	}
	addr, err := parseHost(host)
	if err != nil {
		return ""
	}
	return listenAddr(addr).String()
}

// controlTopic is the topic in the envelopes of control messages.
const controlTopic = "dynplane.control"

// controlBody returns a function that appends an event without a payload.
func controlBody(c codec.Codec) func(dst []byte, publisherID, sequence, publishedAt uint64) []byte {
	return func(dst []byte, publisherID, sequence, publishedAt uint64) []byte {
		env := codec.Envelope{
			PublisherID: publisherID, Sequence: sequence, PublishedAt: publishedAt, Topic: controlTopic, Bytes: true,
		}
		dst, _ = env.Append(dst, c) // fails for no such envelope
		return dst
	}
}

// controlTime returns the time in what controlBody has appended.
func controlTime(body []byte) (publishedAt uint64, err error) {
	env := codec.Envelope{Topic: controlTopic} // Decode allocates only for another topic
	err = env.Decode(body)
	return env.PublishedAt, err
}

func (z *zmqTransport) close() error { return z.ctx.Close() }

// follow keeps to connected to the endpoints of the channels that match query.
// Publishers among them that leave are passed to gone, unless it is nil.
func (z *zmqTransport) follow(to driver.Connector, query discovery.Query, match matchFunc, gone *departures) (*follower, error) {
	if z.discovery == nil {
		return nil, ErrNoDiscovery
	}
	f := &follower{discovery: z.discovery, log: z.config.Logger, to: to, query: query, match: match, departures: gone}
	f.start()
	return f, nil
}

// directTransport connects each subscriber to each publisher.
type directTransport struct{ zmqTransport }

// publisher binds a port that the operating system selects.
func (d *directTransport) publisher(_ context.Context, r route, id uint64) (*pubConn, error) {
	addr, err := d.host()
	if err != nil {
		return nil, err
	}
	pub, err := d.ctx.DirectPublisher(listenAddr(addr).String(), r.directSubject(), id)
	if err != nil {
		return nil, err
	}
	endpoint, err := advertisedEndpoint(pub.Endpoint(), addr)
	if err != nil {
		return nil, errors.Join(err, pub.Close())
	}
	return &pubConn{
		Publisher: pub, subject: r.directSubject(),
		advertised: discovery.ZMQ{Endpoint: endpoint}, host: addr,
	}, nil
}

// host returns the address that publishers advertise.
func (z *zmqTransport) host() (netip.Addr, error) {
	if z.config.Host == "" {
		return parseHost(localHost())
	}
	return parseHost(z.config.Host)
}

// listenAddr returns the address to bind if addr is advertised. The advertised
// address may be on the other side of a NAT, so the wildcard is bound, except
// that a loopback address, which must stay on this machine, is bound itself.
func listenAddr(addr netip.Addr) netip.Addr {
	switch {
	case addr.IsLoopback():
		return addr
	case addr.Is4():
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// advertisedEndpoint returns the bound endpoint with its host replaced by one
// that peers can reach.
func advertisedEndpoint(bound string, host netip.Addr) (string, error) {
	_, port, err := net.SplitHostPort(strings.TrimPrefix(bound, "tcp://"))
	if err != nil {
		return "", fmt.Errorf("bound endpoint %q: want tcp://HOST:PORT: %w", bound, err)
	}
	return "tcp://" + net.JoinHostPort(host.String(), port), nil
}

// subscriber follows the channels of the route. Channels with another transport are
// counted, since their events would otherwise be missed without a sign.
func (d *directTransport) subscriber(_ context.Context, r route, queue driver.QueueOptions) (*subConn, error) {
	sub, err := d.ctx.SubscribeWith(r.directSubject(), queue)
	if err != nil {
		return nil, err
	}
	conn := &subConn{Subscriber: sub, subject: r.directSubject(), departures: &departures{queued: sub.Queued}}
	conn.follow, err = d.follow(sub, r.channels(), matchDirect, conn.departures)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// matchDirect matches the channels of publishers without a broker.
func matchDirect(ch discovery.EventChannel) channelState {
	if t, ok := ch.Transport.(discovery.ZMQ); ok {
		return channelState{matches: true, endpoints: []string{t.Endpoint}, replay: t.ReplayEndpoint}
	}
	return channelState{matches: true, incompatible: true}
}

// brokerTransport connects publishers and subscribers to brokers.
type brokerTransport struct{ zmqTransport }

// publisher connects to the XSUB side of all brokers.
func (b *brokerTransport) publisher(ctx context.Context, r route, _ uint64) (*pubConn, error) {
	addr, err := b.host()
	if err != nil {
		return nil, err
	}
	pub, err := b.ctx.BrokerPublisher(r.brokerSubject())
	if err != nil {
		return nil, err
	}
	conn := &pubConn{Publisher: pub, subject: r.brokerSubject(), host: addr}
	conn.follow, err = b.connect(r, pub, func(c BrokerConfig) []string { return c.XSub })
	if err == nil {
		conn.advertised, err = b.advertised(ctx, r, conn.follow)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// advertised returns the transport that a publisher registers: the brokers in
// use now. No subscriber connects by it, so it is not kept up to date.
func (b *brokerTransport) advertised(ctx context.Context, r route, follow *follower) (discovery.Transport, error) {
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
			if broker, ok := brokerOf(ch, r.scope.Namespace); ok {
				all.XSubEndpoints = append(all.XSubEndpoints, broker.XSub...)
				all.XPubEndpoints = append(all.XPubEndpoints, broker.XPub...)
			}
		}
	}
	if err == nil && len(all.XSubEndpoints) == 0 {
		b.config.Logger.Warn("eventplane: no broker is registered, dropping events until one is",
			"scope", follow.query.Scope.String(), "topic", r.topic)
	}
	return all, err
}

// subscriber connects to the XPUB side of all brokers, and its probe to their XSUB
// side.
func (b *brokerTransport) subscriber(_ context.Context, r route, queue driver.QueueOptions) (*subConn, error) {
	sub, err := b.ctx.SubscribeWith(r.brokerSubject(), queue)
	if err != nil {
		return nil, err
	}
	conn := &subConn{Subscriber: sub, subject: r.brokerSubject(), multipath: b.config.Broker.multipath()}
	conn.follow, err = b.connect(r, probing{sub}, func(c BrokerConfig) []string {
		var all []string
		for _, endpoint := range c.XSub {
			all = append(all, probePrefix+endpoint)
		}
		return append(all, c.XPub...)
	})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// probePrefix marks the endpoints that probing connects the probe to.
const probePrefix = "probe "

// probing connects a subscriber and its probe to brokers.
type probing struct{ *zmqdriver.Subscriber }

// Connect implements driver.Connector.
func (p probing) Connect(endpoint string) error {
	if xsub, ok := strings.CutPrefix(endpoint, probePrefix); ok {
		return p.ConnectProbe(xsub)
	}
	return p.Subscriber.Connect(endpoint)
}

// Disconnect implements driver.Connector.
func (p probing) Disconnect(endpoint string) error {
	if xsub, ok := strings.CutPrefix(endpoint, probePrefix); ok {
		return p.DisconnectProbe(xsub)
	}
	return p.Subscriber.Disconnect(endpoint)
}

// connect connects to one side of the brokers: those that are configured, or
// those of the route's namespace that a follower finds. The follower is nil for
// the former.
func (b *brokerTransport) connect(r route, to driver.Connector, side func(BrokerConfig) []string) (*follower, error) {
	if endpoints := side(b.config.Broker); len(endpoints) > 0 {
		return nil, connectAll(to, endpoints)
	}
	return b.follow(to, brokerQuery(r.scope.Namespace), func(ch discovery.EventChannel) channelState {
		broker, ok := brokerOf(ch, r.scope.Namespace)
		return channelState{matches: ok, endpoints: side(broker)}
	}, nil)
}

// connectAll stops at the first error: an endpoint of the configuration that is
// malformed.
func connectAll(to driver.Connector, endpoints []string) error {
	for _, endpoint := range distinct(endpoints) {
		if err := to.Connect(endpoint); err != nil {
			return fmt.Errorf("connect to %s: %w", endpoint, err)
		}
	}
	return nil
}
