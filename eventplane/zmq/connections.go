//go:build cgo && !nozmq

package zmq

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/dynplane/dynplane/internal/rawzmq"
)

// connections are the endpoints that a socket is connected to, with the state
// that libzmq's monitor has reported for each. They are the peers of a subscriber,
// and of a publisher for brokers.
//
// libzmq reconnects when a connection breaks, but not to a peer that it
// disconnected for a violation of the protocol, such as an oversized frame. In
// the first case CONNECT_RETRIED follows DISCONNECTED at once. If it does not,
// connections reconnects.
type connections struct {
	socket *rawzmq.Socket
	log    *slog.Logger

	// assumeAfter is how long after a handshake it is assumed that the subscription
	// is in effect, if nothing proves it; 0 for never. It is counted from the
	// fourfold of the time that the handshake took, in which it makes three trips.
	assumeAfter time.Duration

	// renew makes proofs that have been sent so far count no more; nil unless for a
	// subscriber. A connection that ends without one may have one that is unread, and
	// the next connection may have the same descriptor.
	renew func()
	stale bool // renew must be called before a connection is proved

	byEndpoint   map[string]*connection
	byAddress    map[string]*connection // once a name is resolved, the monitor reports addresses
	byDescriptor map[int]*connection
	broken       []*connection // those with DISCONNECTED and nothing after it, oldest first
	closing      []*connection // those that disconnectLater marked, oldest first
	unproved     []*connection // those with a handshake, but without proof
	pending      int           // connections without proof, except closing ones
}

type connection struct {
	endpoint   string
	ipv6       bool // libzmq prefers the IPv6 addresses of its name
	proves     bool // the peer is certain to prove the subscription: never assumed
	proved     bool // the subscription is in effect
	assumed    bool // proved is an assumption
	warned     bool
	descriptor int           // of the last connection
	openedAt   time.Time     // when it was connected, before the handshake
	assumeAt   time.Time     // in connections.unproved; zero for never
	patience   time.Duration // how long before assumeAt the wait began
	brokenAt   time.Time     // zero unless in connections.broken
	closeAt    time.Time     // zero unless in connections.closing
}

// connectionEvents are those that connections handle.
const connectionEvents = rawzmq.Connected | rawzmq.HandshakeSucceeded | rawzmq.HandshakeFailedProtocol |
	rawzmq.HandshakeFailedAuth | rawzmq.Disconnected | rawzmq.ConnectRetried

// reconnectDelay is how long CONNECT_RETRIED may take to follow DISCONNECTED.
// It also limits the work that a peer causes which violates the protocol on
// every connection.
const reconnectDelay = 100 * time.Millisecond

// closeDelay is how long a subscriber stays connected to an endpoint after
// Disconnect. A publisher that shuts down unregisters first, and its last
// events may still be in transit; libzmq would discard them.
const closeDelay = time.Second

func newConnections(socket *rawzmq.Socket, log *slog.Logger) *connections {
	return &connections{
		socket:       socket,
		log:          log,
		byEndpoint:   make(map[string]*connection),
		byAddress:    make(map[string]*connection),
		byDescriptor: make(map[int]*connection),
	}
}

var errScheme = errors.New("want tcp://host:port or ipc://path")

func (c *connections) connect(endpoint string, ipv6, proves bool) error {
	if k := c.byEndpoint[endpoint]; k != nil {
		k.proves = k.proves || proves
		c.cancelDisconnect(k)
		return nil
	}
	k := &connection{endpoint: endpoint, ipv6: ipv6, proves: proves}
	if err := c.dial(k); err != nil {
		return err
	}
	c.byEndpoint[endpoint] = k
	c.pending++
	return nil
}

// dial connects the socket. With ZMQ_IPV6, libzmq would prefer the IPv6 address
// of a name to its IPv4 address, so it is set only for those that need it.
func (c *connections) dial(k *connection) error {
	if !strings.HasPrefix(k.endpoint, "tcp://") && !strings.HasPrefix(k.endpoint, "ipc://") {
		return errScheme
	}
	ipv6 := 0
	if k.ipv6 {
		ipv6 = 1
	}
	if err := c.socket.Set(rawzmq.IPv6, ipv6); err != nil {
		return err
	}
	return c.socket.Connect(k.endpoint)
}

func (c *connections) disconnect(endpoint string) error {
	k := c.byEndpoint[endpoint]
	if k == nil {
		return nil
	}
	c.closed(k)
	c.clearBroken(k)
	c.deleteAddresses(k)
	c.cancelDisconnect(k)
	delete(c.byEndpoint, endpoint)
	c.pending--
	return c.socket.Disconnect(endpoint)
}

// disconnectLater disconnects from endpoint after closeDelay, or when the
// connection ends before. Until then it does not count as pending.
func (c *connections) disconnectLater(endpoint string, now time.Time) {
	if k := c.byEndpoint[endpoint]; k != nil && k.closeAt.IsZero() {
		k.closeAt = now.Add(closeDelay)
		c.closing = append(c.closing, k)
		if !k.proved {
			c.pending--
		}
	}
}

// cancelDisconnect undoes disconnectLater.
func (c *connections) cancelDisconnect(k *connection) {
	if k.closeAt.IsZero() {
		return
	}
	k.closeAt = time.Time{}
	c.closing = without(c.closing, k)
	if !k.proved {
		c.pending++
	}
}

func without(list []*connection, k *connection) []*connection {
	return slices.DeleteFunc(list, func(other *connection) bool { return other == k })
}

func (c *connections) deleteAddresses(k *connection) {
	for addr, other := range c.byAddress {
		if other == k {
			delete(c.byAddress, addr)
		}
	}
}

// handleEvent updates the state of the connection that the monitor reports.
func (c *connections) handleEvent(e rawzmq.Event, now time.Time) {
	k := c.lookup(e)
	if k == nil {
		return
	}
	switch e.Kind {
	case rawzmq.Connected:
		k.openedAt, k.descriptor = now, e.Value
		c.byDescriptor[e.Value] = k
	case rawzmq.HandshakeSucceeded:
		c.log.Debug("zmq: connected", "endpoint", k.endpoint)
		c.opened(k, now)
	case rawzmq.Disconnected:
		c.log.Debug("zmq: disconnected", "endpoint", k.endpoint)
		c.closed(k)
		if !k.closeAt.IsZero() {
			k.closeAt = now
			c.closing = slices.Insert(without(c.closing, k), 0, k)
			return
		}
		if k.brokenAt.IsZero() {
			k.brokenAt = now
			c.broken = append(c.broken, k)
		}
	case rawzmq.ConnectRetried:
		c.clearBroken(k)
	case rawzmq.HandshakeFailedProtocol, rawzmq.HandshakeFailedAuth:
		c.warn(k, "zmq: handshake failed, peer does not speak this protocol")
	}
}

// lookup returns the connection of an event. An address that CONNECT_RETRIED is
// the first to report belongs to the connection that broke last, whose endpoint
// has a name: a thread of libzmq reports one right after the other.
func (c *connections) lookup(e rawzmq.Event) *connection {
	if k := c.byEndpoint[e.Endpoint]; k != nil {
		return k
	}
	k := c.byAddress[e.Endpoint]
	if k == nil && e.Kind == rawzmq.ConnectRetried && len(c.broken) > 0 {
		k = c.broken[len(c.broken)-1]
		c.byAddress[e.Endpoint] = k
	}
	return k
}

func (c *connections) clearBroken(k *connection) {
	if k.brokenAt.IsZero() {
		return
	}
	k.brokenAt = time.Time{}
	c.broken = without(c.broken, k)
}

func (c *connections) nextDeadline() (next time.Time) {
	earliest := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if len(c.broken) > 0 {
		earliest(c.broken[0].brokenAt.Add(reconnectDelay))
	}
	if len(c.closing) > 0 {
		earliest(c.closing[0].closeAt)
	}
	for _, k := range c.unproved {
		earliest(k.assumeAt)
	}
	return next
}

// runDue reconnects and disconnects the connections whose deadline has passed. Of the
// others it assumes that the subscription is in effect, or requests another answer.
func (c *connections) runDue(now time.Time) {
	c.reconnect(now)
	for len(c.closing) > 0 && !now.Before(c.closing[0].closeAt) {
		k := c.closing[0]
		if err := c.disconnect(k.endpoint); err != nil {
			c.log.Debug("zmq: disconnect failed", "endpoint", k.endpoint, "error", err)
		}
	}
	again := false
	for _, k := range slices.Clone(c.unproved) {
		switch {
		case k.assumeAt.IsZero() || now.Before(k.assumeAt):
		case k.proves:
			k.patience = min(2*k.patience, maxProofWait)
			k.assumeAt = now.Add(k.patience)
			again = true
		default:
			c.setProved(k)
			k.assumed = true
			c.log.Debug("zmq: peer did not answer, assuming that it has the subscription", "endpoint", k.endpoint)
		}
	}
	if again && c.renew != nil {
		c.renew()
	}
}

// reconnect connects to the peers to which libzmq does not reconnect.
func (c *connections) reconnect(now time.Time) {
	for len(c.broken) > 0 && now.Sub(c.broken[0].brokenAt) >= reconnectDelay {
		c.warn(c.broken[0], "zmq: peer violated the protocol and was disconnected, reconnecting")
		c.connectAgain(c.broken[0], now)
	}
}

// connectAgain connects to a peer again, and discards what waits for it. libzmq itself
// keeps the queue when it connects again.
func (c *connections) connectAgain(k *connection, now time.Time) {
	c.closed(k)
	c.clearBroken(k)
	c.deleteAddresses(k)
	if err := errors.Join(c.socket.Disconnect(k.endpoint), c.dial(k)); err != nil {
		c.log.Debug("zmq: reconnect failed", "endpoint", k.endpoint, "error", err)
		k.brokenAt = now
		c.broken = append(c.broken, k)
	}
}

// warn logs the first problem of a connection as a warning, and later ones for
// debugging.
func (c *connections) warn(k *connection, text string) {
	level := slog.LevelDebug
	if !k.warned {
		level = slog.LevelWarn
	}
	k.warned = true
	c.log.Log(context.Background(), level, text, "endpoint", k.endpoint) //nolint:sloglint // one of two constants, for one rule
}
