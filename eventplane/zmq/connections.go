//go:build cgo && !nozmq

package zmq

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	zmq "github.com/pebbe/zmq4"
)

// links are the endpoints that a socket is connected to, and what libzmq's
// monitor has said of each.
//
// libzmq connects again by itself when a connection breaks, but never to a
// peer that it cut off for a violation of the protocol, an oversized frame for
// one. The difference shows in what follows DISCONNECTED: CONNECT_RETRIED at
// once, or nothing. After nothing we connect again ourselves.
type links struct {
	socket *zmq.Socket
	log    *slog.Logger

	byEndpoint map[string]*link
	byAddress  map[string]*link // after a name was resolved, the monitor says addresses
	cut        []*link          // those with a DISCONNECTED and nothing after it, oldest first
	leaving    []*link          // those to be disconnected, oldest first
	waiting    int              // links without handshake
	unheard    int              // handshakes that no subscription has followed, for a publisher
	live       chan struct{}    // closed while waiting is 0
}

type link struct {
	endpoint string
	live     bool
	warned   bool
	cutAt    time.Time // zero unless in links.cut
	leaveAt  time.Time // zero unless in links.leaving
}

// cutDelay is how long CONNECT_RETRIED is waited for, and what keeps a peer
// that violates the protocol at every connection from keeping us busy.
const cutDelay = 100 * time.Millisecond

// leaveDelay is how long a subscriber stays connected to an endpoint that it is
// told to leave. A publisher that ends unregisters first, and its last events
// may still be under way; libzmq would throw them away.
const leaveDelay = time.Second

func newLinks(socket *zmq.Socket, log *slog.Logger) *links {
	l := &links{
		socket:     socket,
		log:        log,
		byEndpoint: make(map[string]*link),
		byAddress:  make(map[string]*link),
		live:       make(chan struct{}),
	}
	close(l.live)
	return l
}

var errScheme = errors.New("want tcp://host:port or ipc://path")

func (l *links) connect(endpoint string) error {
	if k := l.byEndpoint[endpoint]; k != nil {
		l.stay(k)
		return nil
	}
	if err := l.dial(endpoint); err != nil {
		return err
	}
	l.byEndpoint[endpoint] = &link{endpoint: endpoint}
	l.count(+1)
	return nil
}

// dial connects the socket. With ZMQ_IPV6, libzmq would take a name's IPv6
// address before the IPv4 one, so it is set for literals only.
func (l *links) dial(endpoint string) error {
	if !strings.HasPrefix(endpoint, "tcp://") && !strings.HasPrefix(endpoint, "ipc://") {
		return errScheme
	}
	if err := l.socket.SetIpv6(strings.HasPrefix(endpoint, "tcp://[")); err != nil {
		return err
	}
	return l.socket.Connect(endpoint)
}

func (l *links) disconnect(endpoint string) error {
	k := l.byEndpoint[endpoint]
	if k == nil {
		return nil
	}
	delete(l.byEndpoint, endpoint)
	l.forgetAddresses(k)
	l.clearCut(k)
	if k.leaveAt.IsZero() {
		l.uncount(k)
	} else {
		l.leaving = slices.DeleteFunc(l.leaving, func(other *link) bool { return other == k })
	}
	l.limitUnheard()
	return l.socket.Disconnect(endpoint)
}

// leave disconnects from endpoint after leaveDelay, or when it ends before.
// Until then it does not count as connected.
func (l *links) leave(endpoint string, now time.Time) {
	if k := l.byEndpoint[endpoint]; k != nil && k.leaveAt.IsZero() {
		k.leaveAt = now.Add(leaveDelay)
		l.leaving = append(l.leaving, k)
		l.uncount(k)
	}
}

// stay takes a leave back.
func (l *links) stay(k *link) {
	if k.leaveAt.IsZero() {
		return
	}
	k.leaveAt = time.Time{}
	l.leaving = slices.DeleteFunc(l.leaving, func(other *link) bool { return other == k })
	if !k.live {
		l.count(+1)
	}
}

func (l *links) uncount(k *link) {
	if !k.live {
		l.count(-1)
	}
}

func (l *links) forgetAddresses(k *link) {
	for addr, other := range l.byAddress {
		if other == k {
			delete(l.byAddress, addr)
		}
	}
}

// event takes note of what the monitor says.
func (l *links) event(event zmq.Event, addr string, now time.Time) {
	k := l.find(event, addr)
	if k == nil {
		return
	}
	switch event {
	case zmq.EVENT_HANDSHAKE_SUCCEEDED:
		l.log.Debug("zmq: connected", "endpoint", k.endpoint)
		l.setLive(k, true)
	case zmq.EVENT_DISCONNECTED:
		l.log.Debug("zmq: disconnected", "endpoint", k.endpoint)
		l.setLive(k, false)
		if !k.leaveAt.IsZero() {
			k.leaveAt = now
			l.leaving = append([]*link{k}, slices.DeleteFunc(l.leaving, func(other *link) bool { return other == k })...)
			return
		}
		if k.cutAt.IsZero() {
			k.cutAt = now
			l.cut = append(l.cut, k)
		}
	case zmq.EVENT_CONNECT_RETRIED:
		l.clearCut(k)
	case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_AUTH:
		l.warn(k, "zmq: a peer does not speak our protocol")
	}
}

// find returns the link of addr. An address heard first in CONNECT_RETRIED is
// that of the link cut last, whose endpoint is a name: a thread of libzmq
// reports both one after the other.
func (l *links) find(event zmq.Event, addr string) *link {
	if k := l.byEndpoint[addr]; k != nil {
		return k
	}
	k := l.byAddress[addr]
	if k == nil && event == zmq.EVENT_CONNECT_RETRIED && len(l.cut) > 0 {
		k = l.cut[len(l.cut)-1]
		l.byAddress[addr] = k
	}
	return k
}

func (l *links) setLive(k *link, live bool) {
	if k.live == live {
		return
	}
	k.live = live
	switch {
	case !k.leaveAt.IsZero():
	case live:
		l.count(-1)
	default:
		l.count(+1)
	}
	if live {
		l.unheard++
	}
	l.limitUnheard()
}

// limitUnheard forgets the handshakes of connections that have ended before the
// subscription came. We don't know which those are, but each link that is live
// misses one at most.
func (l *links) limitUnheard() { l.unheard = min(l.unheard, len(l.byEndpoint)-l.waiting) }

// subscribed takes n more subscriptions into account, and tells whether as many
// have come as there were handshakes.
func (l *links) subscribed(n int) bool {
	l.unheard = max(0, l.unheard-n)
	return l.unheard == 0 && l.waiting == 0
}

// count counts one link more or less that has no handshake.
func (l *links) count(n int) {
	was := l.waiting
	l.waiting += n
	switch {
	case was == 0:
		l.live = make(chan struct{})
	case l.waiting == 0:
		close(l.live)
	}
}

func (l *links) clearCut(k *link) {
	if k.cutAt.IsZero() {
		return
	}
	k.cutAt = time.Time{}
	l.cut = slices.DeleteFunc(l.cut, func(other *link) bool { return other == k })
}

// wait returns how long nothing is due, for a poller: -1 is for ever.
func (l *links) wait(now time.Time) time.Duration {
	next, ok := l.next()
	if !ok {
		return -1
	}
	return max(0, next.Sub(now)) + time.Millisecond
}

// next is when something is due, if anything will be.
func (l *links) next() (next time.Time, ok bool) {
	if len(l.cut) > 0 {
		next = l.cut[0].cutAt.Add(cutDelay)
	}
	if len(l.leaving) > 0 && (next.IsZero() || l.leaving[0].leaveAt.Before(next)) {
		next = l.leaving[0].leaveAt
	}
	return next, !next.IsZero()
}

func (l *links) due(now time.Time) bool {
	next, ok := l.next()
	return ok && !now.Before(next)
}

// tend does what is due.
func (l *links) tend(now time.Time) {
	l.repair(now)
	for len(l.leaving) > 0 && !now.Before(l.leaving[0].leaveAt) {
		k := l.leaving[0]
		if err := l.disconnect(k.endpoint); err != nil {
			l.log.Debug("zmq: disconnect", "endpoint", k.endpoint, "error", err)
		}
	}
}

// repair connects again what libzmq has given up.
func (l *links) repair(now time.Time) {
	for len(l.cut) > 0 && now.Sub(l.cut[0].cutAt) >= cutDelay {
		k := l.cut[0]
		l.clearCut(k)
		l.forgetAddresses(k)
		l.warn(k, "zmq: a peer that violates the protocol was cut off, connecting again")
		if err := errors.Join(l.socket.Disconnect(k.endpoint), l.dial(k.endpoint)); err != nil {
			l.log.Debug("zmq: connect again", "endpoint", k.endpoint, "error", err)
		}
	}
}

// warn tells of a link once; a peer that goes on like that is only worth a debug line.
func (l *links) warn(k *link, text string) {
	level := slog.LevelDebug
	if !k.warned {
		level = slog.LevelWarn
	}
	k.warned = true
	l.log.Log(context.Background(), level, text, "endpoint", k.endpoint) //nolint:sloglint // one of two constants, for one rule
}
