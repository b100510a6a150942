// Package etcd keeps registrations in etcd, where the workers of the Rust
// runtime keep theirs by default: under the same keys, with the same values,
// each attached to a lease of its owner.
//
//	options, err := etcd.FromEnv(os.LookupEnv)
//	if err != nil { ... }
//	store, err := etcd.Open(ctx, options)
//	if err != nil { ... }
//	client := discovery.NewClient(store, discovery.Options{})
//	defer client.Shutdown(ctx)
//
// A key is discovery.DynamoBucket and discovery.DynamoKey with a slash
// between and none in front; keys of both generations are read. All that one
// Store registers hangs on one lease, so that it goes together when the owner
// dies, within the TTL and the second that etcd takes.
//
// An open watch never shows an owner of this package as removed while it
// lives, across a restart of the server neither: see discovery.Store. A worker
// of the runtime whose lease is lost ends itself, so what it had registered
// stays gone.
package etcd
