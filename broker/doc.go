// Package broker relays ZeroMQ messages from publishers, which connect to its
// XSUB side, to subscribers, which connect to its XPUB side. With a broker, P
// publishers and S subscribers make P+S connections instead of P·S, and need
// only the addresses of the broker instead of each other's.
//
//	b, err := broker.New(broker.Options{XSubBind: "tcp://0.0.0.0:5555", XPubBind: "tcp://0.0.0.0:5556"})
//	...                    // announce b.XSubEndpoint() and b.XPubEndpoint()
//	err = b.Run(ctx)       // relays until ctx is done
//	err = b.Close()
//
// # Delivery
//
// Messages of up to four frames, which is what events have, pass unchanged;
// others are dropped and counted. The XSUB side subscribes
// to everything, so that the first events for a new subscriber have already
// reached the broker when its subscription arrives. Subscriptions are not
// forwarded to publishers. Delivery is at most once: a subscriber that is too
// slow misses the messages that exceed its high-water mark, and never delays
// other subscribers.
//
// # Memory
//
// High-water marks count messages, as all limits of libzmq do. Options.MaxQueued
// limits the bytes that wait in the whole broker: beyond it, large messages are
// dropped for all subscribers until the slow ones have read, or are disconnected
// because they do not answer heartbeats. No message is truncated: either all of
// its frames pass, or none. libzmq itself holds a message until its last frame has
// arrived, of any number of frames of 64 MiB at most: a publisher that never ends a
// message fills the memory of the broker.
//
// # Building
//
// The relay is a single loop in C on libzmq; a loop in Go has less than half of
// its throughput. The package needs cgo and libzmq. A program built without cgo,
// or with the tag nozmq, still compiles; New then returns an error that wraps
// errors.ErrUnsupported.
package broker
