//go:build cgo && !nozmq

package kvstate

import (
	"context"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/kvevents"
	"github.com/dynplane/dynplane/requestplane"
)

// TestFollowPublisher follows publishers of this package, in the formats of both
// generations: one that was there first, and its successor.
func TestFollowPublisher(t *testing.T) {
	t.Run("gen2", func(t *testing.T) { followPublisher(t, eventplane.WireGen2, testScope) })
	t.Run("gen1", func(t *testing.T) {
		followPublisher(t, eventplane.WireGen1, discovery.Scope{Namespace: testScope.Namespace, Component: testScope.Component})
	})
}

func followPublisher(t *testing.T, wire eventplane.WireFormat, scope discovery.Scope) {
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	registry := memory.New()
	ours, theirs := newClientsOf(t, registry, wire), newClientsOf(t, registry, wire)
	seq := make([]uint64, 3000)
	for i := range seq {
		seq[i] = uint64(i) + 1
	}
	open := func(worker uint64) *Publisher {
		t.Helper()
		p, err := NewPublisher(ctx, theirs.Events, theirs.Discovery, testScope, PublisherOptions{
			Worker: worker, ServerOptions: requestplane.ServerOptions{Listen: "127.0.0.1:0"},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Shutdown(context.Background()) })
		return p
	}
	// publish stores the blocks of the sequence from one on, one an event.
	publish := func(p *Publisher, worker uint64, from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			if err := p.Publish(ctx, storedSeq(worker, "device", seq[:i+1], i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	first := open(1)
	publish(first, 1, 0, 2000)
	v := NewView()
	for u, err := range Follow(ctx, ours, scope, FollowOptions{}) {
		if err != nil {
			t.Fatalf("%v; matches %v", err, v.Match(seq))
		}
		v.Apply(u)
		switch matches := v.Match(seq); {
		case len(matches) == 0:
		case matches[0] == (Match{1, 0, 2000, Live}) && len(matches) == 1:
			publish(first, 1, 2000, len(seq))
		case matches[0] == (Match{1, 0, 3000, Live}) && len(matches) == 1 && first != nil:
			if err := first.Shutdown(ctx); err != nil {
				t.Fatal(err)
			}
			first = nil
			p := open(2)
			publish(p, 2, 0, 10)
			if err := p.Publish(ctx, kvevents.Event{Kind: kvevents.Removed, Medium: "device", Hashes: []uint64{seqHash(2, seq[:8])}}); err != nil {
				t.Fatal(err)
			}
		case matches[0] == (Match{2, 0, 7, Live}) && len(matches) == 1:
			return
		}
	}
	t.Error("the loop has ended")
}
