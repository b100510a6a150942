// Package mirror keeps the registrations of one discovery backend present in
// another, so that workers who register in etcd, say, are found by those who
// look into a NATS bucket:
//
//	err := mirror.Run(ctx, etcd, nats, mirror.Options{})
//
// An entry is written to the target as it was read, with one more field in its
// JSON object: "dynplane_mirror" holds the random id of the mirror. Readers
// ignore fields that they do not know. An entry with that field is never a
// source, so mirrors in both directions, or in a ring, do not feed each other;
// and a mirror goes one step only: from A to C there must be one from A to C.
//
// Who owns an entry of the target:
//
//   - One without the field belongs to its worker. The mirror leaves it alone,
//     and registers when it goes while the source still has one of that id.
//   - One of another mirror stands for both. This one registers when it goes.
//   - One of this mirror stands under its lease and dies with it.
//
// So two mirrors make a mirror that may die. When one is killed, its entries
// expire after the TTL of the target, and the other one registers them as soon
// as it sees that: well under a second later in quiet times. After a disturbance
// of the target's store a watch holds expiries for one TTL more, and so does
// the mirror. When one ends in order, the gap is a round trip.
//
// A store registers by taking over. A worker that registers in the target, under
// an id that the source has, in the very moment in which the mirror does can
// therefore lose its entry to the mirror, and is told. Ids are random, so this
// takes a worker that registers in both.
package mirror
