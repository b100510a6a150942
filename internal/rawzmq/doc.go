// Package rawzmq wraps the few calls of libzmq that packages eventplane/zmq and
// broker need, and states once which socket options both use and why.
//
// The calls work on libzmq's own handles: a whole message costs one call from
// Go to C, a received frame is visible where libzmq holds it, and the broker's
// loop in C uses the same sockets. No call blocks, except Waiter.Wait and
// Context.Term, and every call is repeated if a signal interrupts it: Go's
// runtime sends signals to its threads.
//
// Errors wrap a syscall.Errno and have no prefix; callers add their own.
//
// The package needs cgo and libzmq 4.3. A program built without cgo, or with
// the tag nozmq, sees only the constants and the type Message.
package rawzmq

import "unsafe"

const (
	// DefaultHWM is the default high-water mark of sending sockets: the number
	// of messages that libzmq queues for each peer before it drops further
	// ones. It is that of Dynamo's sockets.
	DefaultHWM = 100_000

	// ReceiveHWM is the high-water mark of receiving sockets: the number of
	// messages that libzmq queues from each peer. Dynamo's subscribers set
	// 100,000 and have no other queue. Subscribers of this module have a queue
	// behind this one that is bounded in bytes, as libzmq's is not, and the
	// broker counts bytes behind this one too. Messages that are not received
	// in time stay with the sender, behind its own high-water mark. A larger
	// value does not increase throughput.
	ReceiveHWM = 1000

	// SubscriptionHWM is the number of subscriptions that libzmq queues from
	// each peer of an XPUB socket. libzmq moves them to an unbounded list of
	// unread subscriptions, once in 100 that are read: with a mark below 100,
	// reading makes that list shorter.
	SubscriptionHWM = 64

	// Unlimited is the high-water mark of subscriptions at a socket that subscribers
	// connect to, which applies them when it sends, or when its owner reads it. With any other mark,
	// libzmq stops reading from a peer that sends more meanwhile; if that peer
	// resets the connection, libzmq aborts the process at the next heartbeat, its
	// own or one of the peer (libzmq issue 4364). A hostile peer can fill memory,
	// but it can do so at any mark with different subscriptions, which libzmq
	// stores.
	Unlimited = 0

	// DefaultMaxFrame is the default size limit of a received frame, in bytes.
	// libzmq disconnects a peer that sends a larger one.
	DefaultMaxFrame = 64 << 20

	// MaxSubscription is the size limit of frames that a socket receives which
	// accepts only subscriptions, in bytes. libzmq keeps a tree node for each byte of
	// a subscription and walks the tree recursively: a subscription of a
	// megabyte overflows the stack.
	MaxSubscription = 4 << 10

	// MaxPrefix is the size limit of what is subscribed to, in bytes. Current peers
	// send a subscription as a command, which has ten bytes before it.
	MaxPrefix = MaxSubscription - 10

	// MaxIOThreads is the largest number of threads that a context may have for
	// input and output. One carries about a gigabyte a second. libzmq aborts the
	// process if the system cannot start as many as it should.
	MaxIOThreads = 64

	// LargeFrame is the size of the smallest frame that a Queue counts, in bytes. A
	// high-water mark bounds the memory of smaller ones.
	LargeFrame = 1 << 10

	// MaxFrames is the number of frames of an event. A Receiver keeps no more
	// of any message.
	MaxFrames = 4
)

// Message is a received message. Frames are valid until the function returns
// that a Receiver passed it to.
type Message struct {
	Frames [MaxFrames][]byte // the first Count frames, if they are that many
	Count  int               // number of frames that arrived; those beyond MaxFrames are not kept
	first  unsafe.Pointer    // libzmq's frame 0, for Source; nil if libzmq did not receive it
}
