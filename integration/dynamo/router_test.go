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
// there first. The router takes events of publishers with a source, of workers
// with a model card.
func TestRouter(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"file", "etcd"} {
		for _, transport := range []string{"direct", "broker by URL", "NATS"} {
			t.Run(store+"/"+transport, func(t *testing.T) {
				t.Parallel()
				newPlace(t, dynamotest.Gen2, store, transport).fillRouter(t)
			})
		}
	}
}

func (p *place) fillRouter(t *testing.T) {
	router := p.start(t, "router.py")
	store, plane := p.openOurs(t)
	const worker = 1<<63 + 1<<53 + 3
	register := func(spec discovery.Spec, err error) {
		t.Helper()
		if err == nil {
			_, err = store.RegisterAs(t.Context(), worker, spec)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	register(discovery.Endpoint{Scope: generate, Transport: discovery.TCP(fmt.Sprintf("127.0.0.1:9/%x/generate", uint64(worker)))}, nil)
	card := discovery.NewTensorCard("interop")
	card.KVCacheBlockSize = 4
	register(discovery.NewModel(generate, card, ""))
	pub, err := plane.PublisherWithOptions(t.Context(), generate, kvEvents, eventplane.PublisherOptions{
		Source: func(publisher uint64) any {
			return discovery.KVSource{Endpoint: generate, WorkerID: worker, PublisherID: publisher}
		},
	})
	if err != nil {
		t.Fatal(err)
	}

	event := uint64(0)
	publish := func(hash uint64, parent *uint64) {
		t.Helper()
		event++
		ev := routerEvent{WorkerID: worker, StorageTier: "device"}
		ev.Event.EventID = event
		ev.Event.Data.Stored = stored{ParentHash: parent, Blocks: []block{{BlockHash: hash, TokensHash: hash + 4000}}}
		if err := pub.Publish(t.Context(), []routerEvent{ev}); err != nil {
			t.Fatal(err)
		}
	}
	// The router connects in the background. It cannot request what it has not
	// received, since this worker does not serve its state: roots until it has one.
	waittest.Eventually(t, "the router is connected", func() bool {
		publish(event+1, nil)
		return len(dump(t, router)) > 0
	})
	const blocks = 50
	parent := event
	for range blocks {
		publish(event+1, &parent)
		parent = event
	}
	want := make(map[uint64]bool)
	for n := range uint64(blocks) {
		want[event-n] = true
	}
	waittest.Eventually(t, "the router has all blocks", func() bool {
		found := 0
		for _, ev := range dump(t, router) {
			for _, b := range ev.Event.Data.Stored.Blocks {
				if want[b.BlockHash] && b.TokensHash == b.BlockHash+4000 && ev.WorkerID == worker {
					found++
				}
			}
		}
		return found == blocks
	})
}

// dump returns the blocks in the index of a router.
func dump(t *testing.T, router *dynamotest.Peer) (events []routerEvent) {
	t.Helper()
	answer := router.Ask(map[string]any{"dump": true}, "dump")
	if err := json.Unmarshal(answer.Events, &events); err != nil {
		t.Fatalf("%v: %s", err, answer.Events)
	}
	return events
}
