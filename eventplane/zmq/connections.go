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
// that libzmq's monitor has reported for each.
//
// libzmq reconnects when a connection breaks, but not to a peer that it
// disconnected for a violation of the protocol, such as an oversized frame. In
// the first case CONNECT_RETRIED follows DISCONNECTED at once. If it does not,
// connections reconnects.
type connections struct {
	socket *rawzmq.Socket
	log    *slog.Logger

	byEndpoint   map[string]*connection
	byAddress    map[string]*connection // once a name is resolved, the monitor reports addresses
	broken       []*connection          // those with DISCONNECTED and nothing after it, oldest first
	closing      []*connection          // those that disconnectLater marked, oldest first
	pending      int                    // connections without handshake, except closing ones
	unsubscribed int                    // handshakes that no subscription has followed, for a publisher
	ready        chan struct{}          // closed while pending is 0
}

type connection struct {
	endpoint string
	ipv6     bool // libzmq prefers the IPv6 addresses of its name
	ready    bool // its handshake is done
	warned   bool
	brokenAt time.Time // zero unless in connections.broken
	closeAt  time.Time // zero unless in connections.closing
}

// reconnectDelay is how long CONNECT_RETRIED may take to follow DISCONNECTED.
// It also limits the work that a peer causes which violates the protocol on
// every connection.
const reconnectDelay = 100 * time.Millisecond

// closeDelay is how long a subscriber stays connected to an endpoint after
// Disconnect. A publisher that shuts down unregisters first, and its last
// events may still be in transit; libzmq would discard them.
const closeDelay = time.Second

func newConnections(socket *rawzmq.Socket, log *slog.Logger) *connections {
	c := &connections{
		socket:     socket,
		log:        log,
		byEndpoint: make(map[string]*connection),
		byAddress:  make(map[string]*connection),
		ready:      make(chan struct{}),
	}
	close(c.ready)
	return c
}

var errScheme = errors.New("want tcp://host:port or ipc://path")

func (c *connections) connect(endpoint string, ipv6 bool) error {
	if k := c.byEndpoint[endpoint]; k != nil {
		c.cancelDisconnect(k)
		return nil
	}
	k := &connection{endpoint: endpoint, ipv6: ipv6}
	if err := c.dial(k); err != nil {
		return err
	}
	c.byEndpoint[endpoint] = k
	c.addPending(+1)
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
	delete(c.byEndpoint, endpoint)
	c.deleteAddresses(k)
	c.clearBroken(k)
	if k.closeAt.IsZero() {
		c.removePending(k)
	} else {
		c.closing = without(c.closing, k)
	}
	c.capUnsubscribed()
	return c.socket.Disconnect(endpoint)
}

// disconnectLater disconnects from endpoint after closeDelay, or when the
// connection ends before. Until then it does not count as pending.
func (c *connections) disconnectLater(endpoint string, now time.Time) {
	if k := c.byEndpoint[endpoint]; k != nil && k.closeAt.IsZero() {
		k.closeAt = now.Add(closeDelay)
		c.closing = append(c.closing, k)
		c.removePending(k)
	}
}

// cancelDisconnect undoes disconnectLater.
func (c *connections) cancelDisconnect(k *connection) {
	if k.closeAt.IsZero() {
		return
	}
	k.closeAt = time.Time{}
	c.closing = without(c.closing, k)
	if !k.ready {
		c.addPending(+1)
	}
}

func without(list []*connection, k *connection) []*connection {
	return slices.DeleteFunc(list, func(other *connection) bool { return other == k })
}

func (c *connections) removePending(k *connection) {
	if !k.ready {
		c.addPending(-1)
	}
}

// addPending adds n, +1 or -1, to the number of connections without handshake.
func (c *connections) addPending(n int) {
	was := c.pending
	c.pending += n
	switch {
	case was == 0:
		c.ready = make(chan struct{})
	case c.pending == 0:
		close(c.ready)
	}
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
	case rawzmq.HandshakeSucceeded:
		c.log.Debug("zmq: connected", "endpoint", k.endpoint)
		c.setReady(k, true)
	case rawzmq.Disconnected:
		c.log.Debug("zmq: disconnected", "endpoint", k.endpoint)
		c.setReady(k, false)
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

func (c *connections) setReady(k *connection, ready bool) {
	if k.ready == ready {
		return
	}
	k.ready = ready
	switch {
	case !k.closeAt.IsZero():
	case ready:
		c.addPending(-1)
	default:
		c.addPending(+1)
	}
	if ready {
		c.unsubscribed++
	}
	c.capUnsubscribed()
}

// capUnsubscribed discounts the handshakes of connections that ended before
// their subscription arrived. It is not known which those are, but each ready
// connection lacks one subscription at most.
func (c *connections) capUnsubscribed() {
	c.unsubscribed = min(c.unsubscribed, len(c.byEndpoint)-c.pending)
}

// addSubscriptions counts n more subscriptions.
func (c *connections) addSubscriptions(n int) { c.unsubscribed = max(0, c.unsubscribed-n) }

// subscribed reports whether there were as many subscriptions as handshakes.
func (c *connections) subscribed() bool { return c.unsubscribed == 0 && c.pending == 0 }

func (c *connections) clearBroken(k *connection) {
	if k.brokenAt.IsZero() {
		return
	}
	k.brokenAt = time.Time{}
	c.broken = without(c.broken, k)
}

// pollTimeout returns the time until the next deadline, or -1 if there is none.
func (c *connections) pollTimeout(now time.Time) time.Duration {
	next, ok := c.nextDeadline()
	if !ok {
		return -1
	}
	return max(0, next.Sub(now))
}

func (c *connections) nextDeadline() (next time.Time, ok bool) {
	if len(c.broken) > 0 {
		next = c.broken[0].brokenAt.Add(reconnectDelay)
	}
	if len(c.closing) > 0 && (next.IsZero() || c.closing[0].closeAt.Before(next)) {
		next = c.closing[0].closeAt
	}
	return next, !next.IsZero()
}

// isDue reports whether a deadline has passed.
func (c *connections) isDue(now time.Time) bool {
	next, ok := c.nextDeadline()
	return ok && !now.Before(next)
}

// runDue reconnects and disconnects the connections whose deadline has passed.
func (c *connections) runDue(now time.Time) {
	c.reconnect(now)
	for len(c.closing) > 0 && !now.Before(c.closing[0].closeAt) {
		k := c.closing[0]
		if err := c.disconnect(k.endpoint); err != nil {
			c.log.Debug("zmq: disconnect failed", "endpoint", k.endpoint, "error", err)
		}
	}
}

// reconnect connects to the peers to which libzmq does not reconnect.
func (c *connections) reconnect(now time.Time) {
	for len(c.broken) > 0 && now.Sub(c.broken[0].brokenAt) >= reconnectDelay {
		k := c.broken[0]
		c.clearBroken(k)
		c.deleteAddresses(k)
		c.warn(k, "zmq: peer violated the protocol and was disconnected, reconnecting")
		if err := errors.Join(c.socket.Disconnect(k.endpoint), c.dial(k)); err != nil {
			c.log.Debug("zmq: reconnect failed", "endpoint", k.endpoint, "error", err)
		}
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
