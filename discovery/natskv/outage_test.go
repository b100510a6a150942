package natskv

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/latencyproxy"
	"github.com/dynplane/dynplane/internal/waittest"
)

// connectAcross connects to a server through a proxy that delays each round trip.
func connectAcross(t *testing.T, server *natstest.Server, rtt time.Duration) *nats.Conn {
	t.Helper()
	proxy, err := latencyproxy.Start(strings.TrimPrefix(server.URL(), "nats://"), rtt/2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	return natstest.Connect(t, "nats://"+proxy.Addr())
}

// registerMany registers n instances, from an id on.
func registerMany(t *testing.T, s *Store, from, n uint64) []*lease {
	t.Helper()
	leases := make([]*lease, n)
	for i := range leases {
		id := from + uint64(i)
		leases[i] = s.newLease(endpointID(id), endpointValue(id, "a"))
	}
	if err := s.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := each(leases, func(l *lease) error {
		if err := l.register(t.Context(), false); err != nil {
			return err
		}
		return s.keep(l)
	})
	if err != nil {
		t.Fatal(err)
	}
	return leases
}

// written returns how many messages the write stream has received.
func written(t *testing.T, js jetstream.JetStream, s *Store) (messages uint64, created time.Time) {
	t.Helper()
	stream, err := js.Stream(t.Context(), s.opt.writeStream())
	if err != nil {
		return 0, time.Time{}
	}
	info := stream.CachedInfo()
	return info.State.LastSeq + 1 - info.Config.FirstSeq, info.Created
}

// It runs before the tests that run at once, since it is about time and many
// registrations.
func TestLostBucketIsFilledAgainWithinOneTTL(t *testing.T) {
	for name, c := range map[string]struct {
		owners uint64
		lost   []string
	}{
		"both streams":     {3000, []string{"KV_dynplane", "DYNPLANE_dynplane"}},
		"the bucket":       {1000, []string{"KV_dynplane"}},
		"the write stream": {1000, []string{"DYNPLANE_dynplane"}},
	} {
		t.Run(name, func(t *testing.T) { loseStreams(t, c.owners, c.lost) })
	}
}

func loseStreams(t *testing.T, owners uint64, lost []string) {
	t.Helper()
	const (
		ttl = 30 * time.Second
		rtt = 30 * time.Millisecond
	)
	server := natstest.Run(t)
	s := openStore(t, connectAcross(t, server, rtt), Options{TTL: ttl})
	leases := registerMany(t, s, 0, owners)
	reader := openStore(t, server.Connect(t), Options{})
	client := discovery.NewClient(reader, discovery.Options{})
	last := endpointID(owners)
	synced, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for ev, err := range client.Watch(t.Context(), everyEndpoint) {
			switch {
			case err != nil || ev.Type == discovery.Removed:
				t.Errorf("the watch of a living registration: %v %s, %v", ev.Type, ev.Instance.ID(), err)
			case ev.Type == discovery.Synced:
				close(synced)
			case ev.Instance.ID() == last:
				return
			}
		}
	}()
	<-synced
	for _, stream := range lost {
		if err := reader.js.DeleteStream(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	waittest.Eventually(t, "everything is listed again", func() bool {
		if n, _ := written(t, reader.js, s); n < 2*owners {
			return false
		}
		list, err := client.List(t.Context(), everyEndpoint)
		if err != nil {
			t.Errorf("list: %v", err)
		}
		return uint64(len(list)) == owners
	})
	again := time.Since(begun)
	messages, created := written(t, reader.js, s)
	t.Logf("listed again after %v; %d messages", again, messages)
	if again > ttl {
		t.Errorf("registered again after %v", again)
	}
	beats := uint64(time.Since(created)/(ttl/heartbeatsPerTTL)) + 2
	if limit := owners * (2 + beats); messages > limit {
		t.Errorf("%d messages were written for %d registrations, want at most %d", messages, owners, limit)
	}
	registerMany(t, s, owners, 1) // after it, no removal is held
	<-watched
	for _, l := range leases {
		if h, _ := l.Health(); !h.Healthy {
			t.Fatalf("%s is not healthy: %v", l.key, h.Err)
		}
	}
}
