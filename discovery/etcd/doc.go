// Package etcd keeps registrations in etcd, where Dynamo's workers keep theirs
// by default: under the same keys, with the same values, each attached to a lease
// of its owner.
//
//	options, err := etcd.FromEnv(os.LookupEnv) // ETCD_ENDPOINTS, …
//	store, err := etcd.Dial(ctx, options)
//	client := discovery.NewClient(store, discovery.Options{})
//	defer client.Shutdown(ctx)
//
// # How a lease works
//
// A key is discovery.DynamoBucket, a slash and discovery.DynamoKey; keys of both
// generations of Dynamo are read. All registrations of a Store are attached to
// one etcd lease, which a heartbeat prolongs three times per TTL. They expire
// together when their owner dies, within the owner's TTL and the second that etcd
// needs to delete them. It is 10 s here unless set. That of Dynamo's workers is
// 30 s, of which 22 to 24 s were left when they were killed in trials.
//
// Entries that are lost are written again, many in one transaction and many
// transactions at once, beside the heartbeats. A lease ends when another owner has
// taken over its entry, and when etcd has refused heartbeats or writes for half a
// TTL, such as after a permission was revoked.
//
// A registration that is canceled waits for the answer to its write, for a few
// seconds at most. If there is none, the keep-alive removes the entry as soon as
// etcd is reachable, and restores that of the former owner.
//
// # Guarantees
//
// Those of package discovery hold for owners that use this package: an open watch
// never reports them as Removed while they live, not even across a restart of
// the server. A slow server makes removals uncertain but does not make a watch
// list again. A worker of Dynamo exits when it loses its lease, so its
// registrations do not come back.
package etcd
