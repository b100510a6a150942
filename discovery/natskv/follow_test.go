package natskv

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

func TestStalledLeader(t *testing.T) {
	t.Parallel()
	source := func(active time.Duration) []*jetstream.StreamSourceInfo {
		return []*jetstream.StreamSourceInfo{{Active: active}}
	}
	for name, c := range map[string]struct {
		replicas int
		sources  []*jetstream.StreamSourceInfo
		want     string
	}{
		"follows":             {3, source(time.Second), ""},
		"has lost its source": {3, source(stallTime), "node1"},
		"was never answered":  {3, source(-1), "node1"},
		"has just begun":      {3, nil, "node1"},
		"single server":       {1, source(-1), ""},
	} {
		info := &jetstream.StreamInfo{
			Config:  jetstream.StreamConfig{Replicas: c.replicas},
			Cluster: &jetstream.ClusterInfo{Leader: "node1"}, Sources: c.sources,
		}
		if got := stalledLeader(info); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestStalledBucketGetsAnotherLeader: the first check only notes that the bucket does
// not follow, and one that is stallTime later replaces its leader.
func TestStalledBucketGetsAnotherLeader(t *testing.T) {
	t.Parallel()
	servers := natstest.Cluster(t, 3)
	log := &logtest.Buffer{}
	s := openStore(t, natstest.Connect(t, natstest.URLs(servers)), Options{Replicas: 3, Logger: log.Logger()})
	registerOne(t, s)
	info, err := s.info(t.Context(), s.opt.readStream())
	if err != nil {
		t.Fatal(err)
	}
	former := info.Cluster.Leader
	info.Sources = []*jetstream.StreamSourceInfo{{Active: -1}}
	s.follow(t.Context(), info)
	s.follow(t.Context(), info)
	if n := strings.Count(log.String(), "does not follow"); n != 0 || !s.isStalled() {
		t.Fatalf("after the first checks: %d warnings, stalled is %v", n, s.isStalled())
	}
	s.mu.Lock()
	s.stall.since = s.stall.since.Add(-stallTime)
	s.mu.Unlock()
	s.follow(t.Context(), info)
	waittest.Eventually(t, "another server leads the bucket, and follows", func() bool {
		info, err := s.info(t.Context(), s.opt.readStream())
		if err != nil || info.Cluster.Leader == former || !isFollowing(info) {
			return false
		}
		s.follow(t.Context(), info)
		return true
	})
	if s.isStalled() {
		t.Error("the bucket is stalled after it has followed again")
	}
}
