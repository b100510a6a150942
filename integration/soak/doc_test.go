// Package soak tests the promises of docs/guarantees.md on discovery in NATS under
// random faults. Many owners register, update, take over and unregister through
// several clients while servers are stopped, killed, frozen and wiped, streams are
// deleted and connections are stalled and cut. The events of watches are compared with
// a history of the calls.
//
// The plan of faults and calls follows from a seed, which is printed; their timing
// does not. `make soak DURATION=10m SEED=7` runs it for longer.
package soak
