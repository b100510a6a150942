// Package natskv keeps registrations in a NATS JetStream KV bucket, each under
// a lease of its owner. It is the default backend of package discovery.
//
//	nc, err := natsconn.Connect(ctx, natsconn.Config{URL: "nats://localhost:4222"})
//	store, err := natskv.New(nc, natskv.Options{})
//	client := discovery.NewClient(store, discovery.Options{})
//
// [Dial] does the first two steps in one.
//
// # How a lease works
//
// An entry is written once, to the write stream. Beside it stands its lease: a
// message scheduled for the deadline, with which the server purges the entry. Each
// heartbeat replaces the lease with one of a later deadline, three times per TTL
// (five with replicas), and is refused by the server if the entry is no longer the
// one that this owner wrote. So a dead owner's entry is purged by the server itself,
// at its deadline. The bucket is a second stream, which the server fills with the
// entries of the first: watchers receive no message for a heartbeat, and heartbeats
// wait for no watcher.
//
// The server must be NATS 2.14 or later with JetStream enabled. Any KV client
// can read the bucket; docs/protocol.md describes its keys, values and headers, and
// docs/guarantees.md the promises under faults.
//
// # Permissions
//
// The error of a call names the permission that it lacks. A client may be refused
// $JS.EVENT.ADVISORY.STREAM.>: then its watches take up to 15 s to notice a bucket
// that was created after them, and its owners up to six TTLs to notice that only the
// bucket was deleted, and not its write stream.
package natskv
