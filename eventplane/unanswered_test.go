package eventplane

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/wait"
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

// readAll reads until nothing has come for a minute, and returns the number of events,
// of those that were missed before them, and the longest time without an event.
func readAll(t *testing.T, s *Subscriber) (received, missed uint64, stall time.Duration) {
	t.Helper()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		before := time.Now()
		ev, err := s.Next(ctx)
		cancel()
		if err != nil {
			return received, missed, stall
		}
		received, missed, stall = received+1, missed+ev.Missed, max(stall, time.Since(before))
	}
}

// Nothing that has arrived is lost because a publisher cannot be reached for replay:
// one event in 50,000 does not arrive at 20,000 a second.
func TestUnansweredRecoveryLosesNothingThatArrived(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, s := newRecoveryTest(t, SubscriberOptions{}, 0)
		r.delay = time.Hour
		const sent, lost = 200_000, 4
		go func() {
			for seq := range uint64(sent) {
				if seq%50_000 != 100 {
					r.events(1, seq)
				}
				_ = wait.Sleep(t.Context(), 50*time.Microsecond)
			}
		}()
		received, missed, stall := readAll(t, s)
		if received != sent-lost || missed != lost || stall > time.Second {
			t.Errorf("%d events, %d missed, none for %v: want %d and %d", received, missed, stall, sent-lost, lost)
		}
	})
}

// The gaps of a publisher that does not answer hold its events ever less often, and
// are recovered again once it answers.
func TestUnansweredRecoveriesBackOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, s := newRecoveryTest(t, SubscriberOptions{}, 10_000)
		r.delay = time.Hour
		const gaps = 400
		go func() {
			for i := range uint64(gaps) {
				r.events(1, 2*i)
				_ = wait.Sleep(t.Context(), 100*time.Millisecond)
			}
		}()
		received, missed, _ := readAll(t, s)
		if n := len(r.requests); received != gaps || missed != gaps-1 || n > 6*replayAttempts {
			t.Errorf("%d events, %d missed, %d requests: want %d, %d and few", received, missed, n, gaps, gaps-1)
		}
		r.delay = time.Millisecond
		r.events(1, 2*gaps)
		received, missed, _ = readAll(t, s)
		if received != 2 || missed != 0 {
			t.Errorf("%d events, %d missed: want 2 and none", received, missed)
		}
	})
}

// A tick of a sequence that has been delivered shows no restart if its time is that of
// the event: nothing waits.
func TestStaleTicksLoseNothing(t *testing.T) {
	t.Parallel()
	for name, interval := range map[string]time.Duration{
		"slow": 30 * time.Millisecond, "fast": 50 * time.Microsecond, "faster than they can be held": time.Microsecond,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r, s := newRecoveryTest(t, SubscriberOptions{}, 0)
				r.delay = time.Hour
				const sent = 20_000
				go func() {
					for seq := range uint64(sent) {
						r.events(1, seq)
						if seq%1000 == 10 {
							r.control(driver.Tick, 5)
						}
						_ = wait.Sleep(t.Context(), interval)
					}
				}()
				received, missed, stall := readAll(t, s)
				if limit := recoverTimeout + interval; received != sent || missed != 0 || stall > limit {
					t.Errorf("%d events, %d missed, none for %v: want %d, none missed, and at most %v", received, missed, stall, sent, limit)
				}
			})
		})
	}
}

// The gap of a publisher that answers does not wait for those of many that do not, or
// that send an event now and then.
func TestUnansweredReplaysDelayOthersLittle(t *testing.T) {
	t.Parallel()
	for name, slow := range map[string]time.Duration{"no answer": time.Hour, "an event now and then": replayTimeout * 9 / 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r, s := newRecoveryTest(t, SubscriberOptions{}, 1000)
				r.slow = slow
				for id := uint64(1); id < 100; id++ {
					r.events(id, 0, 600)
				}
				r.events(100, 0, 5)
				start := time.Now()
				for {
					ev, err := s.Next(t.Context())
					if err != nil || ev.Missed > 0 && ev.PublisherID == 100 {
						t.Fatalf("event %+v, %v: want all of publisher 100", ev, err)
					}
					if ev.PublisherID == 100 && ev.Sequence == 5 {
						break
					}
				}
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("recovered after %v: want less than 3s", took)
				}
				if slow == time.Hour {
					readAll(t, s)
					if took := time.Since(start); took > 3*time.Minute || s.Stats().Missed != 99*599 {
						t.Errorf("missed %d after %v: want all gaps lost", s.Stats().Missed, took)
					}
				}
			})
		})
	}
}
