package discovery

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// reconcilerCase is a script, and the events of a watch on it, each written as the
// time since the beginning and its type.
type reconcilerCase struct {
	name  string
	steps []scriptStep
	want  []string
	bad   uint64
}

// reconcilerCases are about one listing, and entries that are no registrations.
var reconcilerCases = []reconcilerCase{
	{
		"first listing",
		steps(listing(1, 2)),
		[]string{"0s added 1 a", "0s added 2 a", "0s synced"}, 0,
	},
	{
		"unchanged and changed value",
		steps(listing(1), put(1, "a"), after(time.Second, put(1, "b"))),
		[]string{"0s added 1 a", "0s synced", "1s added 1 b"}, 0,
	},
	{
		"unregistered",
		steps(listing(1), after(time.Second, gone(1, CauseUnregistered)), gone(1, CauseUnregistered)),
		[]string{"0s added 1 a", "0s synced", "1s removed 1 a"}, 0,
	},
	{
		"what was never there is not removed",
		steps(listing(), gone(1, CauseUnregistered), gone(1, CauseExpired), gone(1, CauseUncertain), quiet(2*scriptTTL)),
		[]string{"0s synced"}, 0,
	},
	{
		"expired while the store is reachable",
		steps(listing(1), quiet(time.Second), gone(1, CauseExpired)),
		[]string{"0s added 1 a", "0s synced", "1s removed 1 a"}, 0,
	},
	{
		"expired before the first OpProgress",
		steps(listing(1), gone(1, CauseExpired)),
		[]string{"0s added 1 a", "0s synced", "0s removed 1 a"}, 0,
	},
	{
		"listed and expired in the first listing",
		steps(play(OpReset), put(1, "a"), gone(1, CauseExpired), play(OpSynced), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s removed 1 a", "0s synced"}, 0,
	},
	{
		"listed and expired in a later listing: no ghost",
		steps(listing(1), play(OpReset), put(1, "a"), gone(1, CauseExpired), play(OpSynced), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s synced", "6s removed 1 a"}, 0,
	},
	{
		"listed, expired and back in a later listing",
		steps(listing(1), play(OpReset), put(1, "a"), gone(1, CauseUncertain), put(1, "a"), play(OpSynced), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s synced"}, 0,
	},
	{
		"junk over a living entry",
		steps(listing(1), putRaw(1, "junk"), quiet(2*scriptTTL), putRaw(1, string(scriptValue(2, "a"))), quiet(2*scriptTTL), put(1, "b")),
		[]string{"0s added 1 a", "0s synced", "16s added 1 b"}, 2,
	},
	{
		"junk over a living entry, and listed again",
		steps(listing(1), play(OpReset), putRaw(1, "junk"), play(OpSynced), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s synced"}, 1,
	},
	{
		"junk where an owner died makes it no more alive",
		steps(listing(1), gone(1, CauseUncertain), putRaw(1, "junk"), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s synced", "6s removed 1 a"}, 1,
	},
	{
		"bad entries are counted and kept if they were good",
		steps(
			listing(1), play(OpReset),
			scriptStep{change: Change{Op: OpInvalid, ID: scriptID(1), Err: errScriptEnds}},
			scriptStep{change: Change{Op: OpInvalid, Key: "x", Err: errScriptEnds}},
			play(OpSynced), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s synced"}, 2,
	},
	{
		"entries that do not match the query are skipped",
		steps(play(OpReset), scriptStep{change: Change{Op: OpPut, ID: ID{Kind: KindModel}}}, play(OpSynced)),
		[]string{"0s synced"}, 0,
	},
}

// reconcilerHolds are about removals that a fault may have caused.
var reconcilerHolds = []reconcilerCase{
	{
		"expired late: the removal is held",
		steps(listing(1), quiet(time.Second), gone(1, CauseUncertain), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s synced", "7s removed 1 a"}, 0,
	},
	{
		"expired late and back with the same value",
		steps(listing(1), gone(1, CauseUncertain), quiet(scriptHold-time.Second), put(1, "a"), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s synced"}, 0,
	},
	{
		"expired late and back with another value",
		steps(listing(1), gone(1, CauseUncertain), quiet(scriptHold-time.Second), put(1, "b"), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s synced", "5s added 1 b"}, 0,
	},
	{
		"held, and unregistered meanwhile",
		steps(listing(1), gone(1, CauseUncertain), quiet(time.Second), gone(1, CauseUnregistered), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s synced", "1s removed 1 a"}, 0,
	},
	{
		"while the store is silent nothing held is removed",
		steps(listing(1), gone(1, CauseUncertain), scriptStep{10 * scriptTTL, Change{Op: OpProgress}}),
		[]string{"0s added 1 a", "0s synced", "40s removed 1 a"}, 0,
	},
	{
		"listed again: the difference",
		steps(listing(1, 2), quiet(time.Second), play(OpReset), put(2, "a"), put(3, "a"), play(OpSynced), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s added 2 a", "0s synced", "1s added 3 a", "7s removed 1 a"}, 0,
	},
	{
		"listed again, and the missing comes back",
		steps(listing(1), listing(), quiet(scriptTTL/2), put(1, "a"), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s synced"}, 0,
	},
	{
		"listed again and again: the hold goes on",
		steps(listing(1), listing(), quiet(scriptTTL/2), listing(), quiet(scriptTTL/2), listing(), quiet(scriptTTL/2), listing(), quiet(scriptTTL/2)),
		[]string{"0s added 1 a", "0s synced", "6s removed 1 a"}, 0,
	},
	{
		"listed again after an outage: the hold is longer by it",
		steps(listing(1), listing(), quiet(scriptTTL/2), after(time.Second, play(OpReset)), play(OpSynced), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s synced", "7s removed 1 a"}, 0,
	},
	{
		"nothing held is removed inside a listing",
		steps(listing(1, 2), listing(1), play(OpReset), quiet(2*scriptTTL), put(1, "a"), put(2, "a"), play(OpSynced), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s added 2 a", "0s synced"}, 0,
	},
	{
		"expired on time, soon after a fault",
		steps(listing(1), listing(1), quiet(time.Second), gone(1, CauseExpired), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s synced", "6s removed 1 a"}, 0,
	},
	{
		"expired on time, long after a fault",
		steps(listing(1), listing(1), quiet(scriptHold), gone(1, CauseExpired)),
		[]string{"0s added 1 a", "0s synced", "6s removed 1 a"}, 0,
	},
	{
		"expired on time soon after a fault, with a slow reader, and registered again",
		steps(listing(1), listing(1), quiet(time.Second), after(3*scriptTTL, gone(1, CauseExpired)), put(1, "a"), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s synced"}, 0,
	},
	{
		"a fault during the first listing",
		steps(play(OpReset), put(1, "a"), put(2, "a"), listing(2), gone(2, CauseExpired), quiet(scriptTTL/2), put(2, "a"), quiet(2*scriptTTL)),
		[]string{"0s added 1 a", "0s added 2 a", "0s synced", "6s removed 1 a"}, 0,
	},
	{
		"an entry without a TTL is held for the default",
		steps(
			play(OpReset),
			scriptStep{change: Change{Op: OpPut, ID: scriptID(1), Value: scriptValue(1, "a")}},
			play(OpSynced), listing(), quiet(16*time.Second)),
		[]string{"0s added 1 a", "0s synced", "15s removed 1 a"}, 0,
	},
}

func TestReconciler(t *testing.T) {
	t.Parallel()
	for _, c := range slices.Concat(reconcilerCases, reconcilerHolds) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client := NewClient(&script{steps: c.steps}, Options{})
				got := playback(t, client)
				if !slices.Equal(got, c.want) {
					t.Errorf("got  %q\nwant %q", got, c.want)
				}
				if bad := client.Stats().InvalidEntries; bad != c.bad {
					t.Errorf("%d bad entries, want %d", bad, c.bad)
				}
			})
		})
	}
}

func TestWatchEndsWithItsContextWhileTheStoreIsSilent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := NewClient(&script{steps: steps(listing(1), scriptStep{time.Hour, Change{Op: OpProgress}})}, Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var last error
		for _, err := range client.Watch(ctx, Query{Kind: KindEndpoint}) {
			last = err
		}
		if last != context.DeadlineExceeded { //nolint:errorlint // it passes through as it is
			t.Errorf("ended with %v, want the error of its context", last)
		}
	})
}
