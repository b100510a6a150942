// Package eventplane publishes and receives events, over NATS or ZMQ, and
// finds out by discovery who is there to hear.
//
// Delivery is at most once, as PUB/SUB is: an event can be lost where a peer
// is slow, away or not yet connected. What this package adds is that no loss
// goes unseen: publishers number their events, and each event received says
// how many of its publisher's were missed just before it. Of one publisher,
// events arrive in the order they were sent, and none arrives twice.
//
//	cfg, err := eventplane.ConfigFromEnv(os.LookupEnv)
//	plane, err := eventplane.New(cfg, discoveryClient)
//	defer plane.Shutdown(ctx)
//
//	scope := discovery.Scope{Namespace: "dynamo", Component: "backend"}
//	pub, err := plane.Publisher(ctx, scope, "kv-events")
//	err = pub.Publish(ctx, KVEvent{...})
//
//	sub, err := plane.Subscriber(ctx, scope, "kv-events")
//	for ev, err := range eventplane.Events[KVEvent](ctx, sub) {
//		...
//	}
//
// # Transports
//
// Over NATS a scope and topic are a core subject, and no discovery is needed to
// hear. Over ZMQ each publisher has a socket of its own, and a subscriber
// follows discovery and connects to those of its scope and topic as they come
// and go. Through ZMQ brokers, publishers and subscribers connect to all the
// brokers that the configuration names or that discovery knows, and events that
// come by several of them are delivered once.
//
// A subscriber hears its own scope and topic and nothing below them. It tells
// the codec of each event by its first byte, so it hears publishers of all
// settings.
//
// The bytes are those of NVIDIA Dynamo's runtime; see docs/protocol.md.
package eventplane
