//go:build cgo && !nozmq

package zmq

import (
	"strings"

	zmq "github.com/pebbe/zmq4"
)

// audience reads the subscriptions that arrive at an XPUB socket. libzmq keeps
// those that are not read in a list without a bound. It is used under the lock
// of the socket.
type audience struct {
	subject string
	matched int // subscriptions to it that were read and not taken yet
	sends   int // since all was read
}

const (
	// unreadSends is how many messages are sent before subscriptions are read
	// again: rarely enough to cost nothing, often enough that no more than
	// unreadSends * subscriptionHWM * maxSubscription bytes (16 MiB) of each
	// broker wait meanwhile.
	unreadSends = 64
	// readBurst bounds how long a broker that never stops subscribing keeps us
	// from what we are doing.
	readBurst = 1000
)

// tend is called before each message that is sent.
func (a *audience) tend(socket *zmq.Socket) {
	if a.sends++; a.sends > unreadSends && a.read(socket) {
		a.sends = 0
	}
}

// take returns how many subscriptions to the subject came since the last time.
func (a *audience) take(socket *zmq.Socket) int {
	a.read(socket)
	n := a.matched
	a.matched = 0
	return n
}

// read tells whether it has read all.
func (a *audience) read(socket *zmq.Socket) bool {
	for range readBurst {
		frame, err := socket.RecvBytes(zmq.DONTWAIT)
		if err != nil {
			return true
		}
		// 1 subscribes to what begins like the rest, 0 takes that back.
		if len(frame) > 0 && frame[0] == 1 && strings.HasPrefix(a.subject, string(frame[1:])) {
			a.matched++
		}
	}
	return false
}
