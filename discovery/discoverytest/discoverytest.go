// Package discoverytest is the conformance suite of discovery.Store. Every store of
// this module passes it, and so should every other one. A store joins with a
// function that creates a registry for one test and returns a function that opens
// stores on it:
//
//	discoverytest.Run(t, func(*testing.T) func() discovery.Store { return memory.New().Open })
package discoverytest

import (
	"context"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/waittest"
)

// Opener creates a registry for one test and returns a function that opens a store
// on it, each time that of another owner.
type Opener func(t *testing.T) func() discovery.Store

// Run runs the suite, except for the cases named in without, which do not apply to
// the backend. The caller should state the reason for each of them.
func Run(t *testing.T, open Opener, without ...string) {
	t.Helper()
	skip := map[string]bool{}
	for _, name := range without {
		skip[name] = true
	}
	for _, c := range []struct {
		name string
		run  func(context.Context, *fixture)
	}{
		{"registered instances are listed", registeredAreListed},
		{"ids of 64 bits", idsOf64Bits},
		{"queries select", queriesSelect},
		{"names of any bytes", namesOfAnyBytes},
		{"a watch begins with the present state", watchBeginsWithPresentState},
		{"unregistering is watched", unregisteringIsWatched},
		{"a changed value is added again", changedValueIsAddedAgain},
		{"an unchanged value is no event", unchangedValueIsNoEvent},
		{"a registration is taken over", takenOver},
		{"shutdown removes its own", shutdownRemovesItsOwn},
		{"shutdown ends watches", shutdownEndsWatches},
		{"a watch ends with its context", watchEndsWithItsContext},
		{"model conflict", modelConflict},
		{"model conflict of two at once", modelConflictOfTwoAtOnce},
		{"many models at once", manyModelsAtOnce},
		{"many at once", manyAtOnce},
		{"a single entry", singleEntry},
		{"if absent", ifAbsent},
		{"if absent beside another owner", ifAbsentOfOthers},
		{"an update in place", updateInPlace},
		{"an update after the end", updateAfterTheEnd},
		{"an update after a take-over", updateAfterTakenOver},
		{"health of a registration", healthOfARegistration},
		{"exact scope and any kind", exactScopeAndAnyKind},
		{"waits for instances", waitsForInstances},
		{"the same id at once", sameIDAtOnce},
		{"a canceled register", canceledRegister},
	} {
		if skip[c.name] {
			delete(skip, c.name)
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*waittest.Patience)
			t.Cleanup(cancel)
			c.run(ctx, &fixture{t: t, open: open(t)})
		})
	}
	for name := range skip {
		t.Errorf("the suite has no case %q to run without", name)
	}
}
