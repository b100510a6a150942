// Package kvstate keeps the state of KV caches: which blocks each rank of each worker
// has.
//
// # Following
//
// [Follow] yields the state of each rank of each worker, and its changes, from the
// first moment on and without a hole, so that a router can send a request to the
// worker that has its prefix:
//
//	for u, err := range kvstate.Follow(ctx, clients, scope, kvstate.FollowOptions{}) {
//		if err != nil {
//			return err
//		}
//		switch u.Kind {
//		case kvstate.Reset: // forget the blocks of u.Worker and u.Rank, then apply u.Events
//		case kvstate.Change: // apply u.Events
//		case kvstate.Gone: // forget the rank
//		case kvstate.TrustChanged: // u.Trust, u.Reason
//		}
//	}
//
// It subscribes first and then requests the state of the worker, by the query that
// Dynamo's routers use; see package requestplane. Events that arrive in the meantime
// are held. Workers number their events: a number that is missing is requested from
// the worker, whatever the reason was, such as a lost connection or a loop that was
// too slow. A worker that publishes nothing is queried from time to time, since the
// loss of a last event shows in no number. Queries that fail are repeated for as long
// as the worker is registered.
//
// A follower keeps about 1.5 KB for each rank, since the blocks are kept by
// the caller, and the events that are held, up to [FollowOptions].TotalBytes. At most
// 16 queries run at once, of which 8 are retries or checks, and each has one answer
// in memory: that of 10,000 blocks has 0.5 MB.
//
// [Update].Trust is what a router acts on. A rank that is Degraded is used at the
// risk of a miss, or not for its prefix at all.
//
// # Finding the owners of a prefix
//
// A [View] is a ready-made index of the blocks. The loop passes each update to
// [View.Apply], and [View.Match] returns how many blocks of a prompt each rank has:
//
//	hashes := kvevents.AppendTokensHashes(nil, tokens, blockSize, kvevents.TokensHashOptions{})
//	best := view.Match(hashes)
//
// # Which ranks
//
// Ranks are those with a registered event source, and events are those of its
// publisher. A source without an endpoint for queries is followed live only, and
// remains Degraded: its state begins with the first event, and again after a gap.
// Two sources for one rank are ambiguous; the rank is Degraded and empty until one of
// them has left. Dynamo's routers also require a model card that names the worker,
// and this package does not. Publishers of Dynamo up to 1.3 have no sources; their
// events are those of the workers that they name.
//
// # Workers
//
// A [Publisher] makes a Go program a worker that NVIDIA Dynamo's KV router trusts. It
// numbers the events of one rank, publishes them on the topic kv-events, and answers
// the queries of routers that start after the worker, or have missed events:
//
//	pub, err := kvstate.NewPublisher(ctx, plane, client, scope, kvstate.PublisherOptions{Card: card})
//	err = pub.Publish(ctx, events...)
//	defer pub.Shutdown(ctx)
//
// It keeps the newest 1,024 events, 64 MiB at most, and a [Tree] of all blocks. A query
// for events that it has is answered with those, and another one with a dump of the
// tree. A dump is kept, and answers further queries together with the events after it
// for as long as these are at most 512. At most 8 dumps are answered at a time, and
// queries at the same time share one; each takes twice its size in memory until it
// has been sent, about 52 bytes a block. A router that reads slowly occupies one of the
// eight for as long as it makes progress.
//
// Package requestplane describes what access to the port of queries is worth to an
// attacker; its ServerOptions.AllowCallHome limits it.
package kvstate
