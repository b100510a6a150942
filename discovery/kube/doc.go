// Package kube is the discovery backend of a Kubernetes cluster. What a worker
// has registered stands in a DynamoWorkerMetadata object that its pod owns, as
// workers of the runtime in Rust write them, and is there for readers as long
// as the pod is ready:
//
//	options, err := kube.FromEnv(os.LookupEnv)
//	if err != nil { ... }
//	store, err := kube.New(options)
//	if err != nil { ... }
//	client := discovery.NewClient(store, discovery.Options{InstanceID: options.InstanceID()})
//	defer client.Shutdown(ctx)
//
// # Readers
//
// In the mode of pods, a pod is ready when an EndpointSlice says so that has
// both labels nvidia.com/dynamo-discovery-backend=kubernetes and
// nvidia.com/dynamo-discovery-enabled=true. In the mode of containers, each
// container stands for itself, and a Pod with the labels says which ones are
// ready. Either is joined with the objects by name, and by the UID of the pod
// where both sides know it, so that a pod that comes back under its old name
// does not bring its predecessor's registrations back. A store's own
// registrations are there for its own readers also before its pod is ready.
//
// A watch begins with consistent listings and then follows the API server's
// watches; what changes is reported after half a second without which a rollout
// would be told step by step. There are no leases and no clocks: after a lost
// watch, an expired resource version or a restart of the API server, the objects
// are listed again and the difference is reported, so nothing is removed because
// the API server was away. An object that cannot be read leaves the last valid
// state of the same object in place.
//
// # Writers
//
// All registrations of a store are one document, written by server-side apply
// under the field manager dynamo-worker, one write after the other. A write that
// fails leaves the document as it was. Kubernetes keeps numbers of JSON exact up
// to 2^53-1: greater ids are refused. Another owner's registration under the
// same id is not taken over, since it stands in the object of another pod; then
// readers see the one in the object that was created last.
//
// The object's definition and the least roles for readers and workers are in
// examples/kubernetes.
package kube
