// Package mirror keeps the registrations of one discovery backend present in
// another, so that workers that register in etcd, for example, are found by
// readers of a NATS bucket:
//
//	err := mirror.Run(ctx, etcd, nats, mirror.Options{})
//
// An entry is written to the target as it was read, with one additional field in
// its JSON object: "dynplane_mirror" contains the random id of the mirror.
// Readers ignore unknown fields. An entry with that field is never mirrored
// again, so mirrors in both directions, or in a ring, do not feed each other; and
// registrations pass through one mirror only: a mirror from A to B and one from
// B to C do not mirror A to C.
//
// # Ownership
//
// An entry of the target is in one of three cases:
//
//   - Without the field it belongs to its worker. The mirror leaves it alone. When
//     it is removed and the source still has its id, the mirror registers it.
//   - With the id of another mirror it serves both mirrors. This one registers it
//     when it is removed.
//   - With the id of this mirror it is held under its lease, and expires with it.
//
// Two mirrors side by side therefore survive the death of either. If one is
// killed, its entries expire after the target's TTL, and the other registers them
// as soon as it receives the removals: well under a second later, unless the
// target's store had a fault, since then a watch holds removals for
// longer than another TTL. If one shuts down in order, the gap is a round trip.
//
// A registration takes over an existing one. If a worker registers in the target
// under an id of the source at the same moment as the mirror does, it can
// therefore lose its entry to the mirror, and its lease ends with
// discovery.ErrTakenOver. Ids are random, so this requires a worker that
// registers in both backends.
package mirror
