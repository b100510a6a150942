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
// An entry is written once. Beside it stands its lease: a message scheduled for
// the deadline, with which the server purges the entry. Each heartbeat replaces
// the lease with one of a later deadline, five times per TTL, and is refused by
// the server if the entry is no longer the one that this owner wrote. So a dead
// owner's entry is purged by the server itself, at its deadline, and watchers
// receive no message for a heartbeat.
//
// The server must be NATS 2.12 or later with JetStream enabled. Any KV client
// can read the bucket; docs/protocol.md describes its keys, values and headers.
package natskv
