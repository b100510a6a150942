package natskv

import (
	"context"
	"sync"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// admission bounds how many large listings of this process are under way at once.
// All of them together would take as long, but each would last until the end:
// requests would time out, listings would begin again, and heartbeats of the same
// process would be late.
var admission = make(chan struct{}, 8)

const (
	// largeListing is the number of entries from which a listing needs admission.
	largeListing = 1000
	// admissionPatience is how long a listing waits while its consumer exists, which
	// the server deletes after consumerThreshold. Later it waits without.
	admissionPatience = consumerThreshold / 2
	// stalledListing is how long a listing may be without progress before it makes
	// room for another, as it has if its reader is slow.
	stalledListing = 2 * time.Second
)

// admittedListing is a listing under way. Its zero value is none.
type admittedListing struct {
	end   func()
	stall *time.Timer
}

// admit waits for admission, and reports whether it was given.
func (a *admittedListing) admit(ctx, life context.Context, patience <-chan time.Time) (bool, error) {
	if a.end != nil {
		a.progress() // a listing that has made room continues all the same
		return true, nil
	}
	select {
	case admission <- struct{}{}:
	case <-patience:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	case <-life.Done():
		return false, discovery.ErrClosed
	}
	a.end = sync.OnceFunc(func() { <-admission })
	a.stall = time.AfterFunc(stalledListing, a.end)
	return true, nil
}

func (a *admittedListing) progress() {
	if a.stall != nil {
		a.stall.Reset(stalledListing)
	}
}

func (a *admittedListing) release() {
	if a.end != nil {
		a.stall.Stop()
		a.end()
		*a = admittedListing{}
	}
}
