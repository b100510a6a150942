// Package broker relays ZeroMQ messages from publishers, which connect to its
// XSUB side, to subscribers, which connect to its XPUB side. With it the two
// need to know one address instead of each other's, and P publishers and S
// subscribers make P+S connections instead of P·S.
//
//	b, err := broker.New(broker.Options{XSubBind: "tcp://0.0.0.0:5555", XPubBind: "tcp://0.0.0.0:5556"})
//	...                    // b.XSubEndpoint(), b.XPubEndpoint(): announce them
//	err = b.Run(ctx)       // relays until ctx is done
//	err = b.Close()
//
// Messages pass unchanged, whatever their number of frames. The XSUB side is
// subscribed to everything, so that a subscriber's first events are at the
// broker already when its subscription arrives; what subscribers ask for stays
// at the broker. Delivery is at most once: a subscriber that is too slow
// misses what exceeds its high-water mark, and never slows down the others.
//
// The high-water mark counts messages, as all of libzmq's do. The bytes that
// wait are bounded for the whole broker, by Options.MaxQueued: beyond it large
// messages are dropped for all subscribers, until those that are too slow have
// read, or are cut off as they no longer answer heartbeats. No message is ever
// cut: either all of its frames pass, or none.
//
// The relay itself is one loop in C on libzmq: a loop in Go has less than half
// of its throughput. The package needs cgo and libzmq. A program built without
// cgo, or with the tag nozmq, still compiles: New then fails with
// errors.ErrUnsupported.
package broker
