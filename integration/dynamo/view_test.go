package dynamo

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

var kinds = []discovery.Kind{discovery.KindEndpoint, discovery.KindModel, discovery.KindEventChannel, discovery.KindEventSource}

// view is what open watches of all kinds show.
type view struct {
	mu      sync.Mutex
	present map[discovery.ID]bool
	removed int
}

// watchAll watches until the test ends.
func watchAll(t *testing.T, store *discovery.Client) *view {
	t.Helper()
	v := &view{present: make(map[discovery.ID]bool)}
	ctx, cancel := context.WithCancel(context.Background())
	var watches sync.WaitGroup
	for _, kind := range kinds {
		watches.Go(func() {
			for ev, err := range store.Watch(ctx, discovery.Query{Kind: kind}) {
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Errorf("watch: %v", err)
					}
					return
				}
				v.apply(ev)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		watches.Wait()
	})
	return v
}

func (v *view) apply(ev discovery.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch ev.Type {
	case discovery.Added:
		v.present[ev.Instance.ID()] = true
	case discovery.Removed:
		delete(v.present, ev.Instance.ID())
		v.removed++
	case discovery.Synced:
	}
}

// counts returns how many registrations are present, and how many removals there were.
func (v *view) counts() (present, removed int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.present), v.removed
}

// registrations returns how many registrations a worker has: itself, its model, the
// endpoint that serves the state of its blocks, its channels and its source.
func (p *place) registrations() int {
	n := 3
	if p.registersChannels() {
		n += len(scopes(p.version))
	}
	if p.hasSources() {
		n++
	}
	return n
}

// rest lets time pass, where the test is about how long something takes.
func rest(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
