// Package waittest is the only way in which this module's tests wait.
package waittest

import "time"

// Patience bounds every wait of a test. It is generous: it only decides how
// long a failing test takes on a busy machine.
const Patience = 60 * time.Second

// T is what Eventually needs of a test: testing.TB and testscript's TestScript
// both have it.
type T interface {
	Fatalf(format string, args ...any)
}

// Eventually polls ok until it returns true, and fails the test once Patience
// is over. what names the condition in the failure, such as "the entry is
// removed".
func Eventually(t T, what string, ok func() bool) {
	if t, is := t.(interface{ Helper() }); is {
		t.Helper()
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(Patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", Patience, what)
		}
	}
}
