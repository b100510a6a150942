// Package discovery finds the workers of a cluster: workers register endpoints,
// model cards, event channels and event sources, and readers list or watch them.
//
// A [Client] is built on a [Store], the driver of a backend. Package natskv keeps
// registrations in a NATS JetStream KV bucket and is the default; file, etcd and
// kube are the stores of NVIDIA Dynamo's own workers; memory is for tests and
// for programs of one process. Package backend opens the one that the
// environment names.
//
//	store, err := natskv.New(nc, natskv.Options{})
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
// A process with many readers keeps a [Cache], which the lists and watches of its
// client use too.
//
// # Guarantees
//
// While the store is reachable, the registrations of an owner that dies are
// Removed within its TTL + 1 s, and those that it unregisters at once. The TTL is
// that of the owner's lease, whatever that of the reader is; only with package
// file it is the reader's. It is 10 s in the stores of this module unless they
// are given another one, and for Dynamo's workers 10 s in files and 30 s in etcd.
// An open watch never reports the registrations of a living owner as Removed, not
// even across a restart of the server, the loss of its data or a lost connection:
// after such a fault a watch lists again, compares, and holds removals for as long
// as the owners may need to renew their registrations: for one TTL, and half of it
// more, or 2 s if that is longer. A one-shot list, or a watch opened right after an
// outage longer than the TTL, may miss owners that have not registered again yet.
//
// The JSON of an [Instance] is that of NVIDIA Dynamo's runtime, as described in
// docs/protocol.md. The package imports only the standard library and starts no
// goroutine; a timer closes the watch of an endpoint's models that registrations of
// models share.
package discovery
