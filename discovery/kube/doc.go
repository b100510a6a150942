// Package kube keeps registrations in a Kubernetes cluster, as Dynamo's workers
// do. A worker's registrations are one DynamoWorkerMetadata object, which its pod
// owns, and readers see them as long as the pod is ready.
//
//	options, err := kube.FromEnv(os.LookupEnv) // POD_NAME, POD_UID, …
//	store, err := kube.New(options)
//	client := discovery.NewClient(store, discovery.Options{InstanceID: options.InstanceID()})
//	defer client.Shutdown(ctx)
//
// # Readers
//
// In ModePod, a pod is ready if an EndpointSlice lists it as ready that has both
// labels nvidia.com/dynamo-discovery-backend=kubernetes and
// nvidia.com/dynamo-discovery-enabled=true. In ModeContainer, each container is a
// worker of its own, and a Pod with these labels lists the containers that are
// ready. Ready workers are joined with the objects by the name and the UID of the
// pod, as in Dynamo, so that a pod that returns under its former name does not
// bring back the registrations of its predecessor. An endpoint without the UID
// of its pod, and an object without that of its owner, are skipped. Readers of the same
// store see its registrations even before its pod is ready.
//
// A watch begins with consistent listings and then follows the API server's
// watches. It reports a change half a second after it happened, so that a
// rollout does not appear as a series of removals and additions. There are no
// leases and no clocks: after a lost watch, an expired resource version or a
// restart of the API server, the objects are listed again and the difference is
// reported, so no outage of the API server removes a registration. An object that
// cannot be read keeps its last valid state. Ids above 2^63-1, which Dynamo 1.3
// has, are rounded by API servers, and are read from the path of their entry.
//
// # Writers
//
// All registrations of a store are one document, written with server-side apply
// under the field manager dynamo-worker, one write at a time. A write that fails
// leaves the document unchanged; if it got no answer, the store writes the former
// document again, in the background if necessary. Once another pod of the same name
// has replaced the object, the store writes no longer, and its registrations end.
//
// Kubernetes keeps JSON numbers exact up to 2^53-1, and greater ids are refused. A
// registration does not take over that of another worker under the same id, which
// is in the object of another pod; readers then see the one in the newer object.
//
// The definition of the object and the minimal roles of readers and workers are
// in examples/kubernetes.
package kube
