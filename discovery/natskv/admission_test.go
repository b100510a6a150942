package natskv

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/waittest"
)

// TestListingsAreAdmitted is not parallel, since the limit is that of the process.
func TestListingsAreAdmitted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	life := t.Context()
	running := make([]admittedListing, cap(admission))
	for i := range running {
		if ok, err := running[i].admit(ctx, life, nil); !ok {
			t.Fatalf("listing %d was not admitted: %v", i, err)
		}
	}
	var next admittedListing
	expired := make(chan time.Time)
	close(expired)
	if ok, err := next.admit(ctx, life, expired); ok || err != nil {
		t.Errorf("one more listing: got %v, %v", ok, err)
	}
	canceled, end := context.WithCancel(ctx)
	end()
	if ok, err := next.admit(canceled, life, nil); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("one more listing, canceled: got %v, %v", ok, err)
	}
	if ok, err := running[0].admit(ctx, life, expired); !ok {
		t.Errorf("a listing that is admitted was not admitted again: %v", err)
	}
	// They make no progress, and therefore make room.
	if ok, err := next.admit(ctx, life, nil); !ok {
		t.Errorf("beside stalled listings: %v", err)
	}
	next.release()
	for i := range running {
		running[i].release()
		running[i].release()
	}
	waittest.Eventually(t, "all have made room", func() bool { return len(admission) == 0 })
}
