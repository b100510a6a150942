//go:build cgo && !nozmq

package rawzmq

/*
#include <stdint.h>
#include <zmq.h>

static int set_int(void *socket, int option, int value) {
	return zmq_setsockopt(socket, option, &value, sizeof value);
}

static int set_int64(void *socket, int option, int64_t value) {
	return zmq_setsockopt(socket, option, &value, sizeof value);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"time"
	"unsafe"
)

// Options are the socket options that callers choose. All others depend on the
// kind of the socket only.
type Options struct {
	SendHWM    int   // messages queued for each peer; libzmq drops further ones
	ReceiveHWM int   // messages queued from each peer
	MaxFrame   int64 // bytes of a received frame; libzmq disconnects a peer that exceeds it
	Heartbeats bool  // whether it sends heartbeats; ReceiveHWM must then be Unlimited
}

const (
	// sendLinger is how long a closed socket still sends queued messages. 0 can
	// abort the process while a peer disconnects: libzmq issue 3442.
	sendLinger = 200 * time.Millisecond

	// brokenLinger is how long libzmq keeps what is queued for a peer whose
	// connection has ended, which it cannot send any more.
	brokenLinger = 10 * time.Millisecond

	// routerLinger is the same for a ROUTER, whose peers wait for what is queued.
	routerLinger = time.Second

	// TCP keep-alive detects a peer whose machine has vanished: the kernel sends
	// a probe after keepaliveIdle without traffic, then one each
	// keepaliveInterval, and closes the connection after keepaliveProbes that
	// were not answered. libzmq then reconnects.
	keepaliveIdle     = time.Second
	keepaliveInterval = time.Second
	keepaliveProbes   = 3

	// retransmitTimeout closes the connection of a socket without heartbeats if
	// what it sent stays unacknowledged for so long: the kernel sends no probes
	// then, and retransmits for a quarter of an hour. For a publisher that includes
	// a broker that does not read at all for so long. A socket that subscribers
	// connect to must not have it, since it would also disconnect a subscriber that
	// only reads slowly.
	retransmitTimeout = 3 * time.Second

	// Heartbeats of ZMTP also detect a peer that does not run, behind a proxy
	// too. After heartbeatTimeout libzmq disconnects it and frees the messages
	// queued for it. Only sockets that subscribers connect to send heartbeats. The
	// high-water mark of the others makes libzmq stop reading from a connection: if the peer then resets
	// it, libzmq aborts the process at the next heartbeat (libzmq issue 4364). A
	// peer that sends heartbeats of its own can still cause that.
	heartbeatInterval = time.Second
	heartbeatTimeout  = 3 * time.Second

	// libzmq attempts to reconnect after reconnectFirst, and doubles the pause up
	// to reconnectMax. That is how late a connection can be when a peer is back
	// after a long time. 2,000 endpoints where no peer listens cost 0.6 cores with a
	// pause of 100 ms, and 0.06 with one of a second.
	reconnectFirst = 10 * time.Millisecond
	reconnectMax   = 500 * time.Millisecond
)

// set sets all options of a socket that communicates with peers of a network.
func (s *Socket) set(kind Kind, o Options) error {
	options := map[Option]int{
		SendHWM:              o.SendHWM,
		receiveHWM:           o.ReceiveHWM,
		lingerTime:           0,
		reconnectInterval:    int(reconnectFirst.Milliseconds()),
		reconnectIntervalMax: int(reconnectMax.Milliseconds()),
		tcpKeepalive:         1,
		tcpKeepaliveIdle:     int(keepaliveIdle.Seconds()),
		tcpKeepaliveInterval: int(keepaliveInterval.Seconds()),
		tcpKeepaliveProbes:   keepaliveProbes,
	}
	if o.Heartbeats {
		options[pingInterval] = int(heartbeatInterval.Milliseconds())
		options[pingTimeout] = int(heartbeatTimeout.Milliseconds())
	} else {
		options[tcpRetransmitTimeout] = int(retransmitTimeout.Milliseconds())
	}
	if kind != SUB { // has nothing to send
		options[lingerTime] = int(sendLinger.Milliseconds())
	}
	if kind == ROUTER {
		options[routerMandatory] = 1
		options[lingerTime] = int(routerLinger.Milliseconds())
	}
	s.linger = options[lingerTime]
	errs := []error{s.setMaxFrame(o.MaxFrame), s.refuseOldPeers()}
	for option, value := range options {
		errs = append(errs, s.Set(option, value))
	}
	return errors.Join(errs...)
}

// Option is a socket option of type int.
type Option int

// Options that callers set themselves.
const (
	// IPv6 makes a socket resolve names to IPv6 addresses first, and accept
	// IPv6 literals.
	IPv6 Option = C.ZMQ_IPV6
	// XPubVerboser makes an XPUB socket pass on every subscription and every end of
	// one, not only the first and the last of each topic.
	XPubVerboser Option = C.ZMQ_XPUB_VERBOSER
	// XPubNoDrop makes an XPUB socket send nothing and return EAGAIN while the
	// queue of a subscriber is full.
	XPubNoDrop Option = C.ZMQ_XPUB_NODROP
	// SendHWM is Options.SendHWM. It also applies to peers that are connected.
	SendHWM Option = C.ZMQ_SNDHWM
	// ReceiveBuffer is the size of the kernel's receive buffer, in bytes.
	ReceiveBuffer Option = C.ZMQ_RCVBUF

	lingerTime           Option = C.ZMQ_LINGER
	routerMandatory      Option = C.ZMQ_ROUTER_MANDATORY
	receiveHWM           Option = C.ZMQ_RCVHWM
	reconnectInterval    Option = C.ZMQ_RECONNECT_IVL
	reconnectIntervalMax Option = C.ZMQ_RECONNECT_IVL_MAX
	tcpKeepalive         Option = C.ZMQ_TCP_KEEPALIVE
	tcpKeepaliveIdle     Option = C.ZMQ_TCP_KEEPALIVE_IDLE
	tcpKeepaliveInterval Option = C.ZMQ_TCP_KEEPALIVE_INTVL
	tcpKeepaliveProbes   Option = C.ZMQ_TCP_KEEPALIVE_CNT
	tcpRetransmitTimeout Option = C.ZMQ_TCP_MAXRT
	pingInterval         Option = C.ZMQ_HEARTBEAT_IVL
	pingTimeout          Option = C.ZMQ_HEARTBEAT_TIMEOUT
)

// Set sets an option.
func (s *Socket) Set(option Option, value int) error {
	if rc, err := C.set_int(s.ptr, C.int(option), C.int(value)); rc != 0 {
		return fmt.Errorf("set %v to %d: %w", option, value, failure(err))
	}
	return nil
}

func (s *Socket) setMaxFrame(n int64) error {
	if rc, err := C.set_int64(s.ptr, C.ZMQ_MAXMSGSIZE, C.int64_t(n)); rc != 0 {
		return fmt.Errorf("set MAXMSGSIZE to %d: %w", n, failure(err))
	}
	return nil
}

// refuseOldPeers makes libzmq refuse peers that speak ZMTP 1 or 2, which no
// libzmq since 4.0 does. It takes each peer for one whose first byte is not that
// of ZMTP, such as a server of HTTP, and then fails an assertion of its own if it
// cannot add a subscription in the name of the peer. A domain for ZAP has that
// effect, since those versions have no authentication. There is no handler of
// ZAP, and without one libzmq accepts every other peer.
func (s *Socket) refuseOldPeers() error {
	domain := []byte("dynplane")
	if rc, err := C.zmq_setsockopt(s.ptr, C.ZMQ_ZAP_DOMAIN, unsafe.Pointer(&domain[0]), C.size_t(len(domain))); rc != 0 {
		return fmt.Errorf("set ZAP_DOMAIN: %w", failure(err))
	}
	return nil
}

var optionNames = map[Option]string{
	IPv6:                 "IPV6",
	XPubVerboser:         "XPUB_VERBOSER",
	XPubNoDrop:           "XPUB_NODROP",
	ReceiveBuffer:        "RCVBUF",
	lingerTime:           "LINGER",
	routerMandatory:      "ROUTER_MANDATORY",
	SendHWM:              "SNDHWM",
	receiveHWM:           "RCVHWM",
	reconnectInterval:    "RECONNECT_IVL",
	reconnectIntervalMax: "RECONNECT_IVL_MAX",
	tcpRetransmitTimeout: "TCP_MAXRT",
	tcpKeepalive:         "TCP_KEEPALIVE",
	tcpKeepaliveIdle:     "TCP_KEEPALIVE_IDLE",
	tcpKeepaliveInterval: "TCP_KEEPALIVE_INTVL",
	tcpKeepaliveProbes:   "TCP_KEEPALIVE_CNT",
	pingInterval:         "HEARTBEAT_IVL",
	pingTimeout:          "HEARTBEAT_TIMEOUT",
}

// String returns libzmq's name of the option.
func (o Option) String() string {
	if name, ok := optionNames[o]; ok {
		return name
	}
	return fmt.Sprintf("option %d", int(o))
}
