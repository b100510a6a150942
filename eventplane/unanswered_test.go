package eventplane

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// A gap of a publisher that does not replay holds none of its events. One that
// announces what it has sent is requested twice: a NATS cluster may not have its
// subscription everywhere yet.
func TestPublishersThatDoNotReplayAreNotAskedAgain(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		announces bool
		requests  int
	}{"of another library": {false, 1}, "of this library": {true, 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r, s := newRecoveryTest(t, SubscriberOptions{}, 0)
				r.delay = 0
				r.fail = func(driver.ReplayRequest) error { return driver.ErrNoReplay }
				start := time.Now()
				if tc.announces {
					r.control(driver.Ready, 0)
				}
				r.events(1, 0, 2)
				for range 2 {
					if _, err := s.Next(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if took := time.Since(start); len(r.requests) != tc.requests || took > replayMinPause || !tc.announces && took > 0 {
					t.Errorf("%d requests in %v: want %d", len(r.requests), took, tc.requests)
				}
			})
		})
	}
}
