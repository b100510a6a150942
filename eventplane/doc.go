// Package eventplane publishes and receives events over NATS or ZMQ, and finds
// the peers by discovery.
//
// A [Client] opens a [Publisher] or [Subscriber] for a scope and a topic:
//
//	cfg, err := eventplane.ConfigFromEnv(os.LookupEnv)
//	client, err := eventplane.New(cfg, discoveryClient)
//	defer client.Shutdown(ctx)
//
//	scope := discovery.Scope{Namespace: "dynamo", Component: "backend"}
//	pub, err := client.Publisher(ctx, scope, "kv-events")
//	err = pub.Publish(ctx, KVEvent{...})
//
//	sub, err := client.Subscriber(ctx, scope, "kv-events")
//	for ev, err := range eventplane.Events[KVEvent](ctx, sub) {
//		...
//	}
//
// # Delivery
//
// Delivery is at most once: an event is lost if the subscriber is slow,
// disconnected or not yet connected when it is published. Losses are detected.
// Publishers number their events, and each [Event] carries the number of events
// of its publisher that were lost just before it. The events of one publisher are
// delivered in the order in which they were published. An event that arrives
// through several brokers is delivered once.
//
// # Transports
//
// On NATS, a scope and topic are one core subject. Subscribers need no
// discovery.
//
// On ZMQ without a broker, each publisher binds a socket, and each subscriber
// follows discovery: it connects to the publishers of its scope and topic when
// they are registered, and disconnects when they are removed.
//
// On ZMQ with brokers, publishers and subscribers connect to all brokers that
// the configuration names, or that are registered in their namespace. An event
// that arrives through several brokers is delivered once.
//
// A subscriber receives the events of exactly its scope and topic, and none of
// the scopes below. It detects the codec of each event by the first byte, so
// publishers with different codecs can share a topic.
//
// The bytes are those of NVIDIA Dynamo; see docs/protocol.md.
//
// # Errors
//
// Errors of a context are returned as they are. All others begin with
// "eventplane: " and wrap their cause. A [*DecodeError] reports one message; the
// stream continues after it.
package eventplane
