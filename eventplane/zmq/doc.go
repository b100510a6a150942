// Package zmq carries events over ZeroMQ PUB and SUB sockets, directly from
// publisher to subscriber or through a broker (package broker). It implements
// package driver. Applications use package eventplane, which opens it. Packages
// that import several transports name it zmqdriver.
//
// A Context owns the sockets that are opened with it:
//
//	zc, err := zmq.New(zmq.Options{})
//	pub, err := zc.DirectPublisher("127.0.0.1", "kv-events", id)  // subscribers connect to pub.Endpoint()
//	pub, err := zc.BrokerPublisher("kv-events")                   // pub.Connect(xsub) for each broker
//	sub, err := zc.Subscribe("kv-events")                         // sub.Connect(endpoint) for each publisher or XPUB
//
// # Delivery
//
// Delivery is at most once. A publisher drops messages for a slow subscriber
// whose queue has reached the high-water mark, which counts messages. A
// subscriber misses messages that were published before its subscription reached
// the publisher; Ready reports when it has.
//
// # Format
//
// The format of a message is that of NVIDIA Dynamo. It has four frames: topic,
// publisher id and sequence (8 bytes each, big-endian), and the body after a
// header of 5 bytes: version 1 and the length of the body (4 bytes,
// big-endian). Bytes after the body are ignored.
//
// # Building
//
// The package needs cgo and libzmq. A program built without cgo, or with the
// tag nozmq, still compiles; New then returns an error that wraps
// errors.ErrUnsupported.
package zmq
