package dynamo

import (
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/kvevents"
	"github.com/dynplane/dynplane/kvstate"
	"github.com/dynplane/dynplane/requestplane"
)

// stateWorker is a worker of ours that answers state queries. Its blocks are one
// chain, and their hashes are counted from 1.
type stateWorker struct {
	*kvstate.Publisher
	server *requestplane.Server
	id     uint64
	blocks uint64
}

func (p *place) startStateWorker(t *testing.T) *stateWorker {
	t.Helper()
	store, plane := p.openOurs(t)
	options, err := requestplane.ServerOptionsFromEnv(lookup(p.ours))
	if err != nil {
		t.Fatal(err)
	}
	options.Listen, options.Logger = "127.0.0.1:0", logger(t)
	server, err := requestplane.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	card := discovery.NewTensorCard("interop")
	card.KVCacheBlockSize = 4
	w := &stateWorker{server: server, id: 1<<63 + 1<<53 + 5}
	w.Publisher = retry(t, "open a publisher", func() (*kvstate.Publisher, error) {
		return kvstate.NewPublisher(t.Context(), plane, store, generate, kvstate.PublisherOptions{
			Worker: w.id, Server: server, Card: card, Logger: logger(t),
		})
	})
	t.Cleanup(func() { shutdown(t, w) })
	return w
}

// store publishes n events, each of which stores one block.
func (w *stateWorker) store(t *testing.T, n int) {
	t.Helper()
	var events []kvevents.Event
	for range n {
		e := kvevents.Event{Kind: kvevents.Stored, Medium: "device", Hashes: []uint64{w.blocks + 1}, TokensHashes: []uint64{tokensHash(w.blocks + 1)}}
		if w.blocks > 0 {
			e.Parent = kvevents.Some(w.blocks)
		}
		w.blocks++
		events = append(events, e)
	}
	if err := w.Publish(t.Context(), events...); err != nil {
		t.Fatal(err)
	}
}

// heldBy returns the number of blocks of the worker in the index of a router.
func (w *stateWorker) heldBy(t *testing.T, router *dynamotest.Peer) uint64 {
	t.Helper()
	found := map[uint64]bool{}
	for _, ev := range dump(t, router) {
		for _, b := range ev.Event.Data.Stored.Blocks {
			if ev.WorkerID == w.id && b.TokensHash == tokensHash(b.BlockHash) {
				found[b.BlockHash] = true
			}
		}
	}
	return uint64(len(found))
}

func (w *stateWorker) awaitHeld(t *testing.T, router *dynamotest.Peer, blocks uint64) {
	t.Helper()
	last := uint64(0)
	defer func() {
		if last != blocks {
			t.Logf("%d of %d blocks, worker %+v", last, blocks, w.Stats())
		}
	}()
	waittest.Eventually(t, "the router has exactly the blocks of the worker", func() bool {
		last = w.heldBy(t, router)
		return last == blocks
	})
}

// answerTheirs answers the queries of routers that start after all events. They have
// all blocks, follow the later events, and forget the blocks of a worker that leaves.
func (p *place) answerTheirs(t *testing.T) {
	w := p.startStateWorker(t)
	w.store(t, 50)
	router := p.start(t, "router.py")
	w.awaitHeld(t, router, 50)
	w.store(t, 2950)
	w.awaitHeld(t, router, 3000)
	second := p.start(t, "router.py")
	w.awaitHeld(t, second, 3000)
	if got := w.server.Stats(); w.Stats().Queries < 2 || got.Failed+got.Invalid+got.CallHomeFailed > 0 {
		t.Errorf("%d queries, counted %+v, want no failure", w.Stats().Queries, got)
	}
	shutdown(t, w)
	w.awaitHeld(t, second, 0)
}

// TestRouterMissesEvents has a router request the events that it has missed while the
// broker was down.
func TestRouterMissesEvents(t *testing.T) {
	t.Parallel()
	for _, version := range []string{dynamotest.Gen2, dynamotest.Gen1} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, version, "file", "broker by URL")
			router := p.start(t, "router.py")
			w := p.startStateWorker(t)
			for _, missed := range []int{0, 20, 2000} { // more than the worker keeps
				if missed > 0 {
					p.brokers[0].Kill()
					w.store(t, missed)
					p.brokers[0].Start()
				}
				// A router notices what it has missed with the next event.
				waittest.Eventually(t, "the router has all blocks", func() bool {
					w.store(t, 1)
					return w.heldBy(t, router) == w.blocks
				})
			}
		})
	}
}
