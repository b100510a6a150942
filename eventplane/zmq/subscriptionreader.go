//go:build cgo && !nozmq

package zmq

import (
	"strings"

	"github.com/dynplane/dynplane/internal/rawzmq"
)

// subscriptionReader reads the subscriptions that arrive at the XPUB socket of
// a publisher, and counts those that match its subject. libzmq keeps unread
// subscriptions in a list without a bound: the socketLoop reads them when they
// arrive, and Publish once in a while, since sending moves them to that list and
// can keep the loop from being woken. Callers hold the lock of the socket.
type subscriptionReader struct {
	subject  string
	receiver *rawzmq.Receiver
	matched  int // subscriptions that matched
	taken    int // those of them that takeMatched has returned
	sends    int // messages sent since all subscriptions were read
}

const (
	// unreadSends is how many messages are sent before subscriptions are read
	// again: rarely enough to cost nothing, often enough that a few times
	// unreadSends * SubscriptionHWM subscriptions from each broker wait
	// meanwhile at most.
	unreadSends = 64
	// readBatches limits how long a broker that never stops subscribing delays
	// a message.
	readBatches = 10
)

// beforeSend must be called before each message is sent. It reads once in a
// while.
func (r *subscriptionReader) beforeSend() {
	if r.sends++; r.sends > unreadSends && r.read() {
		r.sends = 0
	}
}

// takeMatched returns how many subscriptions matched since the last call.
func (r *subscriptionReader) takeMatched() int {
	n := r.matched - r.taken
	r.taken = r.matched
	return n
}

// read reports whether it has read all.
func (r *subscriptionReader) read() bool {
	for range readBatches {
		if !r.receiver.Each(r.count) {
			return true
		}
	}
	return false
}

// count reads a subscription: 1 and a prefix. 0 and a prefix ends one.
func (r *subscriptionReader) count(m *rawzmq.Message) {
	if f := m.Frames[0]; len(f) > 0 && f[0] == 1 && strings.HasPrefix(r.subject, string(f[1:])) {
		r.matched++
	}
}
