package natskv

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

var everyEndpoint = discovery.Query{Kind: discovery.KindEndpoint}

// fewConsumers reports whether the bucket has at most so many consumers.
func fewConsumers(t *testing.T, s *Store, most int) bool {
	t.Helper()
	stream, err := s.js.Stream(t.Context(), s.opt.readStream())
	return err == nil && stream.CachedInfo().State.Consumers <= most
}

func TestCanceledListsLeaveNoConsumers(t *testing.T) {
	t.Parallel()
	const lists = 300
	for name, url := range map[string]string{
		"one server": natstest.Run(t).URL(),
		"cluster":    natstest.URLs(natstest.Cluster(t, 3)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, natstest.Connect(t, url), Options{})
			registerMany(t, s, 0, 100)
			client := discovery.NewClient(s, discovery.Options{})
			var wg sync.WaitGroup
			free := make(chan struct{}, 16)
			for range lists {
				free <- struct{}{}
				wg.Go(func() {
					defer func() { <-free }()
					ctx, cancel := context.WithTimeout(t.Context(), rand.N(20*time.Millisecond))
					defer cancel()
					if _, err := client.List(ctx, everyEndpoint); err != nil && !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("list: %v", err)
					}
				})
			}
			wg.Wait()
			// Some may be left by a connection that was lost.
			begun := time.Now()
			waittest.Eventually(t, "few consumers are left", func() bool { return fewConsumers(t, s, lists/30) })
			if d := time.Since(begun); d > consumerThreshold/2 {
				t.Errorf("consumers were left for %v", d)
			}
			waittest.Eventually(t, "no consumers are left", func() bool { return fewConsumers(t, s, 0) })
		})
	}
}

// watchMany begins n watches, which share nothing, and returns once they are synced.
func watchMany(t *testing.T, s *Store, n int) {
	t.Helper()
	synced := make(chan struct{}, n)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ev, err := range discovery.NewClient(s, discovery.Options{}).Watch(ctx, everyEndpoint) {
				if err == nil && ev.Type == discovery.Synced {
					synced <- struct{}{}
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	for range n {
		<-synced
	}
}

func TestWatchesCostTheServerLittle(t *testing.T) {
	t.Parallel()
	const watches = 100
	for name, c := range map[string]struct {
		bucket bool
		limit  float64 // requests a second
	}{
		"without a bucket": {false, 20},
		"idle":             {true, 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := natstest.Run(t)
			s := openStore(t, server.Connect(t), Options{TTL: time.Minute})
			if c.bucket {
				registerOne(t, s)
			}
			watchMany(t, s, watches)
			before, begun := server.InMsgs(), time.Now()
			<-time.After(8 * time.Second)
			rate := float64(server.InMsgs()-before) / time.Since(begun).Seconds()
			t.Logf("%.1f messages a second", rate)
			if rate > c.limit {
				t.Errorf("%d watches cost the server %.1f messages a second, want at most %.0f", watches, rate, c.limit)
			}
		})
	}
}
