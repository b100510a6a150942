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
)

// Options are the socket options that differ between the sockets of this
// module. Socket sets all others alike.
type Options struct {
	SendHWM    int   // messages queued for each peer; libzmq drops further ones
	ReceiveHWM int   // messages queued from each peer
	MaxFrame   int64 // bytes of a received frame; libzmq disconnects a peer that exceeds it
}

const (
	// sendLinger is how long a closed socket still sends what it has queued. 0
	// can abort the process while a peer disconnects: libzmq issue 3442.
	sendLinger = 200 * time.Millisecond

	// heartbeat and heartbeatTimeout detect a peer that vanished without
	// closing its connection. libzmq then reconnects, or frees what it has
	// queued for that peer.
	heartbeat        = time.Second
	heartbeatTimeout = 3 * time.Second

	// libzmq attempts to reconnect after reconnectFirst, and doubles the pause up
	// to reconnectMax. That is how late a connection can be when a peer is
	// back after a long time; an attempt each second costs nothing.
	reconnectFirst = 10 * time.Millisecond
	reconnectMax   = time.Second
)

// set sets all options of a socket that communicates with peers of a network.
func (s *Socket) set(kind Kind, o Options) error {
	linger := sendLinger
	if kind == SUB { // has nothing to send
		linger = 0
	}
	errs := []error{s.setMaxFrame(o.MaxFrame)}
	for _, p := range []struct {
		option Option
		value  int
	}{
		{lingerTime, int(linger.Milliseconds())},
		{sendHWM, o.SendHWM},
		{receiveHWM, o.ReceiveHWM},
		{reconnectInterval, int(reconnectFirst.Milliseconds())},
		{reconnectIntervalMax, int(reconnectMax.Milliseconds())},
		{tcpKeepalive, 1},
		{heartbeatInterval, int(heartbeat.Milliseconds())},
		{heartbeatPatience, int(heartbeatTimeout.Milliseconds())},
	} {
		errs = append(errs, s.Set(p.option, p.value))
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
	// XPubVerbose makes an XPUB socket pass on every subscription, not only
	// the first one of each topic.
	XPubVerbose Option = C.ZMQ_XPUB_VERBOSE
	// XPubNoDrop makes an XPUB socket send nothing and return EAGAIN while the
	// queue of a subscriber is full.
	XPubNoDrop Option = C.ZMQ_XPUB_NODROP
	// ReceiveBuffer is the size of the kernel's receive buffer, in bytes.
	ReceiveBuffer Option = C.ZMQ_RCVBUF

	lingerTime           Option = C.ZMQ_LINGER
	sendHWM              Option = C.ZMQ_SNDHWM
	receiveHWM           Option = C.ZMQ_RCVHWM
	reconnectInterval    Option = C.ZMQ_RECONNECT_IVL
	reconnectIntervalMax Option = C.ZMQ_RECONNECT_IVL_MAX
	tcpKeepalive         Option = C.ZMQ_TCP_KEEPALIVE
	heartbeatInterval    Option = C.ZMQ_HEARTBEAT_IVL
	heartbeatPatience    Option = C.ZMQ_HEARTBEAT_TIMEOUT
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

// String returns libzmq's name of the option.
func (o Option) String() string {
	switch o {
	case IPv6:
		return "IPV6"
	case XPubVerbose:
		return "XPUB_VERBOSE"
	case XPubNoDrop:
		return "XPUB_NODROP"
	case ReceiveBuffer:
		return "RCVBUF"
	case lingerTime:
		return "LINGER"
	case sendHWM:
		return "SNDHWM"
	case receiveHWM:
		return "RCVHWM"
	case reconnectInterval:
		return "RECONNECT_IVL"
	case reconnectIntervalMax:
		return "RECONNECT_IVL_MAX"
	case tcpKeepalive:
		return "TCP_KEEPALIVE"
	case heartbeatInterval:
		return "HEARTBEAT_IVL"
	case heartbeatPatience:
		return "HEARTBEAT_TIMEOUT"
	}
	return fmt.Sprintf("option %d", int(o))
}
