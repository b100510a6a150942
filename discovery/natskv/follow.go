package natskv

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// In a cluster, the bucket may lose its source with a leader. Its own leader notices
// that after 10 to 20 s, and if its request to the write stream met an election,
// repeats it after 40 s. A new leader of the bucket begins at once, so an owner that
// finds the bucket stalled replaces the leader.

// stallTime is how long a bucket may not follow. The server sends a heartbeat to it
// every second.
const stallTime = 3 * time.Second

// stall is what a check has found out about a bucket that does not follow.
type stall struct {
	leader string // empty: the bucket follows, or has no other server that could lead it
	since  time.Time
}

// follow compares the bucket with the last check, and replaces a leader that has not
// followed the write stream in two checks that are stallTime apart.
func (s *Store) follow(ctx context.Context, read *jetstream.StreamInfo) {
	now := time.Now()
	leader := stalledLeader(read)
	s.mu.Lock()
	if leader == "" || s.stall.leader != leader {
		s.stall = stall{leader, now}
	}
	due := leader != "" && now.Sub(s.stall.since) >= stallTime
	if due {
		s.stall.since = now
	}
	s.mu.Unlock()
	if !due {
		return
	}
	s.log.Warn("natskv: the bucket does not follow its write stream; its leader is replaced", "bucket", s.opt.Bucket, "leader", leader)
	// The next check shows the outcome. Where it is not permitted, the leader notices
	// by itself, later.
	_, _ = s.nc.RequestWithContext(ctx, s.opt.apiSubject(stepDown, s.opt.readStream()), nil)
}

const stepDown = "STREAM.LEADER.STEPDOWN"

// stalledLeader returns the leader of a replicated bucket that does not follow its
// source, or an empty name.
func stalledLeader(read *jetstream.StreamInfo) string {
	if read.Cluster == nil || read.Config.Replicas < 2 || isFollowing(read) {
		return ""
	}
	return read.Cluster.Leader
}

func isFollowing(read *jetstream.StreamInfo) bool {
	if len(read.Sources) == 0 { // it has just become the leader
		return false
	}
	active := read.Sources[0].Active // negative: the source has never answered
	return active >= 0 && active < stallTime
}

func (s *Store) isStalled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stall.leader != ""
}

// checkFollowing makes a check due once the bucket should follow, not at the same time
// as that of every other owner.
func (k *keeper) checkFollowing(now time.Time) {
	k.checked = time.Time{}
	k.checkAt = now.Add(stallTime + rand.N(k.store.opt.TTL/8))
}

// subscribeElected subscribes to the advisories of the server that a stream of the
// bucket has a new leader.
func (k *keeper) subscribeElected() (elected chan *nats.Msg, unsubscribe func()) {
	return k.subscribeAdvisories("STREAM.LEADER_ELECTED.")
}
