package discovery

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestHeldRemovalsAreConfirmed: the second copy of the entries decides. Its answers
// come one call after another; the last one is repeated.
func TestHeldRemovalsAreConfirmed(t *testing.T) {
	t.Parallel()
	const hold = scriptHold
	broken := errors.New("no answer")
	type answer struct {
		present []ID
		err     error
	}
	for _, c := range []struct {
		name    string
		steps   []scriptStep
		answers []answer
		want    []string
		calls   int
	}{
		{
			"absent there too", steps(listing(1), listing(), quiet(3*hold)),
			[]answer{{}},
			[]string{"0s added 1 a", "0s synced", "6s removed 1 a"}, 1,
		},
		{
			"present there: held again", steps(listing(1, 2), listing(), quiet(2*hold)),
			[]answer{{present: []ID{scriptID(1)}}, {}},
			[]string{"0s added 1 a", "0s added 2 a", "0s synced", "6s removed 2 a", "12s removed 1 a"}, 2,
		},
		{
			"present there, and back before the next question", steps(listing(1), listing(), quiet(hold), put(1, "a"), quiet(2*hold)),
			[]answer{{present: []ID{scriptID(1)}}},
			[]string{"0s added 1 a", "0s synced"}, 1,
		},
		{
			"expired while the store was reachable, and unregistered: no call",
			steps(listing(1, 2), gone(1, CauseExpired), gone(2, CauseUnregistered), quiet(hold)),
			[]answer{{err: broken}},
			[]string{"0s added 1 a", "0s added 2 a", "0s synced", "0s removed 1 a", "0s removed 2 a"}, 0,
		},
		{
			"uncertain", steps(listing(1), gone(1, CauseUncertain), quiet(2*hold)),
			[]answer{{}},
			[]string{"0s added 1 a", "0s synced", "6s removed 1 a"}, 1,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				got := playback(t, NewClient(&script{steps: c.steps, present: func([]ID) ([]ID, error) {
					a := c.answers[min(calls, len(c.answers)-1)]
					calls++
					return a.present, a.err
				}}, Options{}))
				if !slices.Equal(got, c.want) || calls != c.calls {
					t.Errorf("got  %q with %d calls\nwant %q with %d", got, calls, c.want, c.calls)
				}
			})
		})
	}
}

// TestRemovalsThatCannotBeConfirmedStayHeld: an entry is removed once the other copy
// answers, and until then the calls back off.
func TestRemovalsThatCannotBeConfirmedStayHeld(t *testing.T) {
	t.Parallel()
	const outage = 10 * time.Minute
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		begin, calls := time.Now(), 0
		client := NewClient(&script{
			steps: steps(listing(1), listing(), quiet(outage+time.Minute)),
			present: func([]ID) ([]ID, error) {
				calls++
				if time.Since(begin) < outage {
					return nil, errors.New("no answer")
				}
				return nil, nil
			},
		}, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		got := playback(t, client)
		if len(got) != 3 || !strings.HasSuffix(got[2], "removed 1 a") || !strings.HasPrefix(got[2], "10m") {
			t.Errorf("got %q, want the removal after the outage", got)
		}
		// At most every half second, and every 2.5 s on average.
		if calls > 400 || calls < 60 {
			t.Errorf("%d calls in %v, want them to back off", calls, outage)
		}
		if n := strings.Count(log.String(), "removals stay held"); n != 1 {
			t.Errorf("the outage is logged %d times, want once:\n%s", n, log.String())
		}
	})
}
