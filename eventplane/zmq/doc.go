// Package zmq carries events over ZeroMQ PUB and SUB sockets, directly from
// publisher to subscriber or through a broker (package broker). It implements
// package driver; applications use package eventplane, which opens it.
// Importers that know other transports too name it zmqdriver.
//
// A Context owns the sockets that are opened with it:
//
//	zc, err := zmq.New(zmq.Options{})
//	pub, err := zc.DirectPublisher("127.0.0.1")  // subscribers connect to pub.Endpoint()
//	pub, err := zc.BrokerPublisher("kv-events")  // pub.Connect(xsub) for each broker
//	sub, err := zc.Subscribe("kv-events")        // sub.Connect(endpoint) for each publisher or XPUB
//
// Delivery is at most once. A publisher drops what a slow subscriber does not
// take (at the high-water mark, counted in messages), and nobody hears what
// was published before the connection stood; Ready says when it stands.
//
// The format of a message is that of NVIDIA Dynamo: four frames, namely the
// topic, the publisher's id and the sequence (both 8 bytes, big-endian), and
// the body behind a header of 5 bytes: version 1 and the length of the body
// (4 bytes, big-endian). What follows the body is ignored.
//
// The package needs cgo and libzmq. A program built without cgo, or with the
// tag nozmq, still compiles: New then fails with errors.ErrUnsupported.
package zmq
