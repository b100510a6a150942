//go:build cgo && !nozmq

package eventplane_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
)

// watchCounter counts the watches of a store.
type watchCounter struct {
	discovery.Store
	opened atomic.Int64
}

func (s *watchCounter) Watch(ctx context.Context, q discovery.Query) (discovery.Watcher, error) {
	s.opened.Add(1)
	return s.Store.Watch(ctx, q)
}

// TestSubscribersShareTheCache: the subscribers of a process find publishers by the
// one watch of its cache.
func TestSubscribersShareTheCache(t *testing.T) {
	t.Parallel()
	registry := memory.New()
	store := &watchCounter{Store: registry.Open()}
	peers := discovery.NewClient(store, discovery.Options{})
	cache := discovery.NewCache(peers, discovery.Query{Kind: discovery.KindEventChannel})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- cache.Run(ctx) }()
	<-cache.Ready()
	pub, err := newPlane(t, directConfig(), newDiscovery(t, registry)).Publisher(patient(t), backend, "kv-events")
	must(t, err)
	plane := newPlane(t, directConfig(), peers)
	published := uint64(0)
	for range 3 {
		sub, err := plane.Subscriber(patient(t), backend, "kv-events")
		must(t, err)
		must(t, sub.Ready(patient(t)))
		p := &pair{pub: pub, sub: sub, next: published}
		p.probe(t)
		published = p.next
	}
	if n := store.opened.Load(); n != 1 {
		t.Errorf("%d watches were opened, want that of the cache", n)
	}
	must(t, plane.Shutdown(patient(t)))
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the cache ended with %v", err)
	}
	must(t, peers.Shutdown(patient(t)))
}
