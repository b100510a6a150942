package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/internal/wait"
)

// TestCacheHoldsRemovals: a cache reports what a watch does, at the same times, to
// the watches on it.
func TestCacheHoldsRemovals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		steps []scriptStep
		want  []string
	}{
		{
			"expired late", steps(listing(1, 2), quiet(time.Second), gone(1, CauseUncertain), quiet(2*scriptHold)),
			[]string{"0s added 1 a", "0s added 2 a", "0s synced", "7s removed 1 a"},
		},
		{
			"listed again", steps(listing(1, 2), quiet(time.Second), listing(1), quiet(time.Second), put(2, "a"), quiet(2*scriptHold)),
			[]string{"0s added 1 a", "0s added 2 a", "0s synced"},
		},
		{
			"changed and unregistered", steps(listing(1), after(time.Second, put(1, "b")), after(time.Second, gone(1, CauseUnregistered)), quiet(time.Second)),
			[]string{"0s added 1 a", "0s synced", "1s added 1 b", "2s removed 1 b"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				// Later watches list nothing until ctx is done, which is a moment after the
				// end of the cache.
				client := NewClient(&script{steps: c.steps, later: steps(after(time.Hour, play(OpReset)))}, Options{})
				cache := NewCache(client, Query{Kind: KindEndpoint})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error, 1)
				begin := time.Now()
				go func() {
					ended <- cache.Run(ctx)
					cancel()
				}()
				synctest.Wait()
				var got []string
				for ev, err := range client.Watch(ctx, Query{Kind: KindEndpoint}) {
					if err != nil {
						break
					}
					got = append(got, fmt.Sprint(time.Since(begin), " ", describe(ev)))
				}
				if err := <-ended; !errors.Is(err, errScriptEnds) {
					t.Errorf("the cache ended with %v", err)
				}
				if left := *client.caches.Load(); len(left) > 0 {
					t.Error("the client keeps a cache that has ended")
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("got  %q\nwant %q", got, c.want)
				}
			})
		})
	}
}

// TestWatchHoldsRemovalsWhenTheCacheEnds: entries that the store does not list to the
// watch that continues are held, as after a fault, and confirmed.
func TestWatchHoldsRemovalsWhenTheCacheEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := NewClient(&script{
			steps:   steps(listing(1, 2, 3), quiet(time.Second)),
			later:   steps(listing(1), quiet(time.Second), put(2, "a"), quiet(3*scriptHold)),
			present: func([]ID) ([]ID, error) { return nil, nil },
		}, Options{})
		cache := NewCache(client)
		ended := make(chan error, 1)
		go func() { ended <- cache.Run(t.Context()) }()
		synctest.Wait()
		want := []string{"0s added 1 a", "0s added 2 a", "0s added 3 a", "0s synced", "7s removed 3 a"}
		if got := playback(t, client); !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		if err := <-ended; !errors.Is(err, errScriptEnds) {
			t.Errorf("the cache ended with %v", err)
		}
	})
}

// TestAgeOfACache: it is small while the store reports progress, and grows during an
// outage.
func TestAgeOfACache(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := NewClient(&script{steps: steps(
			listing(1), quiet(10*time.Second), after(time.Minute, put(2, "a")), quiet(time.Second), quiet(time.Minute),
		)}, Options{})
		cache := NewCache(client)
		ended := make(chan error)
		go func() { ended <- cache.Run(t.Context()) }()
		begin := time.Now()
		for _, c := range []struct{ at, atLeast, atMost time.Duration }{
			{9 * time.Second, 0, time.Second},
			{40 * time.Second, 29 * time.Second, 31 * time.Second},
			{70*time.Second + time.Millisecond, 60 * time.Second, 61 * time.Second}, // the put is no proof
			{80 * time.Second, 0, time.Second},
		} {
			_ = wait.Sleep(t.Context(), time.Until(begin.Add(c.at)))
			synctest.Wait()
			if age := cache.Age(); age < c.atLeast || age > c.atMost {
				t.Errorf("at %v the age is %v, want %v to %v", c.at, age, c.atLeast, c.atMost)
			}
		}
		if err := <-ended; !errors.Is(err, errScriptEnds) {
			t.Errorf("the cache ended with %v", err)
		}
	})
}
