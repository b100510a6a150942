package dynamo

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/kvevents"
	"github.com/dynplane/dynplane/kvstate"
)

// TestFollow follows the cache of a real worker that was there first.
func TestFollow(t *testing.T) {
	t.Parallel()
	for _, version := range []string{dynamotest.Gen2, dynamotest.Gen1} {
		for _, transport := range []string{"direct", "NATS"} {
			t.Run(version+"/"+transport, func(t *testing.T) {
				t.Parallel()
				newPlace(t, version, "file", transport).followTheirs(t)
			})
		}
	}
}

func (p *place) followTheirs(t *testing.T) {
	store, plane := p.openOurs(t)
	worker := p.start(t, "worker.py")
	id := worker.Await("ready", 1).WorkerID
	const early, late = 50, 30
	worker.Ask(map[string]any{"publish": early}, "sent")

	v := &kvView{blocks: map[kvevents.BlockKey]bool{}}
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() {
		clients := kvstate.Clients{Discovery: store, Events: plane, Requests: p.callClient(t)}
		for u, err := range kvstate.Follow(ctx, clients, scopes(p.version)[kvEvents], kvstate.FollowOptions{Logger: logger(t)}) {
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("follow: %v", err)
				}
				return
			}
			v.apply(t, u, id)
		}
	})
	defer following.Wait()
	defer cancel()
	waittest.Eventually(t, "all earlier blocks are found", func() bool { return v.is(early, kvstate.Live) })
	worker.Ask(map[string]any{"publish": late}, "sent")
	waittest.Eventually(t, "the later blocks are found", func() bool { return v.is(early+late, kvstate.Live) })
	worker.Kill()
	waittest.Eventually(t, "the rank is gone", func() bool { return v.is(0, 0) })
}

// kvView is what the updates of a follower make of the only rank.
type kvView struct {
	mu     sync.Mutex
	blocks map[kvevents.BlockKey]bool
	trust  kvstate.Trust
}

func (v *kvView) apply(t *testing.T, u kvstate.Update, worker uint64) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if u.Kind != kvstate.Synced && (u.Worker != worker || u.Rank != 0) {
		t.Errorf("update %+v, want it of worker %x", u, worker)
	}
	v.trust = u.Trust
	switch u.Kind {
	case kvstate.Reset:
		clear(v.blocks)
	case kvstate.Gone:
		clear(v.blocks)
		v.trust = 0
	case kvstate.TrustChanged, kvstate.Change, kvstate.Synced:
	}
	if u.Events == nil {
		return
	}
	for e := range u.Events {
		for i := range e.Hashes {
			if e.Kind == kvevents.Stored {
				v.blocks[e.Key(i)] = true
			}
		}
	}
}

func (v *kvView) is(blocks int, trust kvstate.Trust) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.blocks) == blocks && v.trust == trust
}
