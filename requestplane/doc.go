// Package requestplane calls endpoints of NVIDIA Dynamo over TCP, and serves
// endpoints that Dynamo calls. A call has one request and any number of items as
// its answer. Routers use it to request the KV state of their workers.
//
// # Calls
//
// A call takes two connections. The client connects to the server, sends the
// request, and receives an acknowledgement. The server then connects to the
// client ("calls home") at the address that the request names, and sends the
// answer on that connection. A client therefore has a listener, which its
// servers must be able to reach.
//
//	client, err := requestplane.NewClient(requestplane.ClientOptions{})
//	addr, err := requestplane.ParseAddress("10.0.0.7:41877/2a/dynamo/backend/generate")
//	for item, err := range client.Call(ctx, addr, request, requestplane.CallOptions{Codec: requestplane.Msgpack}) {
//		...
//	}
//
//	server, err := requestplane.NewServer(requestplane.ServerOptions{})
//	remove, err := server.Handle(path, func(ctx context.Context, r *requestplane.Request, send func([]byte) error) error {
//		return send(answer)
//	})
//
// Requests and items are bytes to this package, each one value in the [Codec] of
// the call. [One] and [Items] encode and decode Go values.
//
// The bytes are those of Dynamo 1.3 to 1.6; docs/protocol.md describes them.
// Not supported are streams of requests, QUIC, and requests over NATS.
//
// # Security
//
// The protocol authenticates neither side unless both use mutual TLS; see [TLS].
// Without it, both ports belong in a private network:
//
//   - The port of a server makes it connect to any address that a request names,
//     from its own place in the network. The attacker learns from the timing
//     whether a port there accepts connections, and chooses up to 256 characters
//     in the middle of what is sent: JSON in a binary frame, without raw line
//     breaks. The attacker also receives the answers of all handlers.
//     ServerOptions.AllowCallHome limits the addresses, for example with
//     [SameHost] or [InPrefixes].
//   - The port of a client accepts an answer from any peer that presents the
//     random subject of a call, of 122 bits, which travels in the request.
//
// # Hostile peers
//
// Both sides limit the size of frames, and allocate memory for bytes that have
// arrived, not for those that are announced. Where a peer can hold something
// without doing anything, such as a connection, a pending connect or a handshake,
// the number is limited, and a newcomer replaces the oldest of the host that has
// most: a flood does not keep other peers out. Handlers are limited in number;
// further calls wait, and then are refused. A client that reads slowly holds its
// handler for as long as it reads. [ServerStats] and [ClientStats] count all of it.
//
// # Concurrency
//
// Clients and servers are safe for concurrent use. An iterator belongs to one
// goroutine, as does the function that sends the items of an answer.
package requestplane
