// Package discovery says who is there: workers register endpoints, model
// cards and event channels, and readers list or watch them.
//
// A [Client] stands on a [Store]: [NewJetStream] keeps registrations in a NATS
// JetStream KV bucket, each under a lease of its owner; [NewMemory] keeps them
// in the process, for tests and single-process programs.
//
//	store, err := discovery.NewJetStream(nc, discovery.JetStreamOptions{})
//	client := discovery.NewClient(store, discovery.Options{})
//	reg, err := client.Register(ctx, discovery.Endpoint{
//		Scope:     discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"},
//		Transport: discovery.TCP("10.0.0.7:41231/2a/generate"),
//	})
//	defer client.Shutdown(ctx) // readers see it removed at once
//
//	for ev, err := range client.Watch(ctx, discovery.Query{Kind: discovery.KindEndpoint}) {
//		...
//	}
//
// # What is promised
//
// In quiet times an owner that dies is Removed within its TTL + 1 s, and one
// that unregisters is Removed at once. An open watch never shows a living owner
// as Removed, also not across a restart of the server, the loss of its store or
// a lost connection: after such a disturbance a watch lists again, compares,
// and gives owners one TTL to come back before it reports them Removed. A
// one-shot list, or a watch opened right after an outage longer than the TTL,
// can miss owners that have not been heard yet.
//
// The JSON of an [Instance] is that of NVIDIA Dynamo's runtime (docs/protocol.md).
package discovery
