// Package soak tests the promises of docs/guarantees.md on discovery in NATS under
// random faults. Many owners register, update, take over and unregister through
// several clients while servers are stopped, killed, frozen and wiped, streams are
// deleted and connections are stalled and cut. The events of watches are compared with
// a history of the calls.
//
// The event plane has a world of its own, on each transport: publishers, subscribers and
// brokers in processes that are killed, frozen and started again, and links that are
// stalled and cut. The events that subscribers deliver, and report as lost, are compared
// with those that publishers published.
//
// The plan of faults and calls follows from a seed, which is printed; their timing
// does not. `make soak DURATION=10m SEED=7` runs it for longer.
package soak
