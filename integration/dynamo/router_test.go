package dynamo

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestRouter has a worker of ours fill the index of a real KV router, which was
// there first. The router takes events of workers with a model card, and in the
// newer generation of publishers with a source.
func TestRouter(t *testing.T) {
	t.Parallel()
	for _, version := range []string{dynamotest.Gen2, dynamotest.Gen1} {
		for _, store := range []string{"file", "etcd"} {
			for _, transport := range []string{"direct", "broker by URL", "NATS"} {
				t.Run(version+"/"+store+"/"+transport, func(t *testing.T) {
					t.Parallel()
					newPlace(t, version, store, transport).fillRouter(t)
				})
			}
		}
	}
}

func (p *place) fillRouter(t *testing.T) {
	router := p.start(t, "router.py")
	w := p.startOurs(t)
	// The router connects in the background. It cannot request what it has not
	// received, since this worker does not serve its state: roots until it has one.
	// The older generation waits for that state, unless an event shows that the
	// cache has been cleared.
	waittest.Eventually(t, "the router is connected", func() bool {
		if p.version == dynamotest.Gen1 {
			w.publish(t, "cleared")
		}
		w.storeBlock(t, nil)
		return len(dump(t, router)) > 0
	})
	const blocks = 50
	want := make(map[uint64]bool)
	for range blocks {
		parent := w.events
		w.storeBlock(t, &parent)
		want[w.events] = true
	}
	waittest.Eventually(t, "the router has all blocks", func() bool {
		found := 0
		for _, ev := range dump(t, router) {
			for _, b := range ev.Event.Data.Stored.Blocks {
				if want[b.BlockHash] && b.TokensHash == tokensHash(b.BlockHash) && ev.WorkerID == w.id {
					found++
				}
			}
		}
		return found == blocks
	})
}

// ourWorker is a worker of ours that publishes the events of a cache.
type ourWorker struct {
	id      uint64
	pub     *eventplane.Publisher
	version string
	events  uint64 // published so far
}

// startOurs registers a worker: its endpoint, its model, and the source of its events.
func (p *place) startOurs(t *testing.T) *ourWorker {
	t.Helper()
	store, plane := p.openOurs(t)
	w := &ourWorker{id: 1<<63 + 1<<53 + 3, version: p.version}
	card := discovery.NewTensorCard("interop")
	card.KVCacheBlockSize = 4
	model, err := discovery.NewModel(generate, card, "")
	if err != nil {
		t.Fatal(err)
	}
	endpoint := discovery.Endpoint{Scope: generate, Transport: discovery.TCP(fmt.Sprintf("127.0.0.1:9/%x/generate", w.id))}
	register(t, store, w.id, endpoint, model)
	var options eventplane.PublisherOptions
	if p.hasSources() {
		options.Source = func(publisher uint64) any {
			return discovery.KVSource{Endpoint: generate, WorkerID: w.id, PublisherID: publisher}
		}
	}
	w.pub = publisher(t, plane, scopes(p.version)[kvEvents], kvEvents, options)
	return w
}

// publish publishes the next event.
func (w *ourWorker) publish(t *testing.T, data any) {
	t.Helper()
	w.events++
	var payload any = map[string]any{"worker_id": w.id, "storage_tier": "device",
		"event": map[string]any{"event_id": w.events, "data": data, "dp_rank": 0}}
	if w.version != dynamotest.Gen1 {
		payload = []any{payload}
	}
	if err := w.pub.Publish(t.Context(), payload); err != nil {
		t.Fatal(err)
	}
}

// storeBlock publishes a block, whose hash is the number of its event.
func (w *ourWorker) storeBlock(t *testing.T, parent *uint64) {
	t.Helper()
	hash := w.events + 1
	w.publish(t, map[string]any{"stored": stored{ParentHash: parent, Blocks: []block{{BlockHash: hash, TokensHash: tokensHash(hash)}}}})
}

func tokensHash(block uint64) uint64 { return block + 4000 }

// dump returns the blocks in the index of a router.
func dump(t *testing.T, router *dynamotest.Peer) (events []routerEvent) {
	t.Helper()
	answer := router.Ask(map[string]any{"dump": true}, "dump")
	if err := json.Unmarshal(answer.Events, &events); err != nil {
		t.Fatalf("%v: %s", err, answer.Events)
	}
	return events
}
