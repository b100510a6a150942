package dynamo

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/dynplane/dynplane/discovery"
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

// card is what a router requires of a model card.
const card = `{"display_name":"interop","slug":"interop","kv_cache_block_size":4,"migration_limit":0,"model_type":"TensorBased",
	"model_input":"Tensor","worker_type":"aggregated","runtime_config":{},"tensor_model_config":{"name":"interop","inputs":[],"outputs":[]}}`

func (p *place) fillRouter(t *testing.T) {
	router := p.start(t, "router.py")
	store, plane := p.openOurs(t)
	const worker = 1<<63 + 1<<53 + 3
	register := func(id uint64, spec discovery.Spec) {
		t.Helper()
		if _, err := store.RegisterAs(t.Context(), id, spec); err != nil {
			t.Fatal(err)
		}
	}
	register(worker, discovery.Endpoint{Scope: generate, Transport: discovery.TCP(fmt.Sprintf("127.0.0.1:9/%x/generate", uint64(worker)))})
	register(worker, discovery.Model{Scope: generate, Card: json.RawMessage(card)})
	pub, err := plane.Publisher(t.Context(), generate, kvEvents)
	if err != nil {
		t.Fatal(err)
	}
	register(pub.ID(), discovery.EventSource{Scope: generate, Topic: kvEvents, Metadata: json.RawMessage(fmt.Sprintf(
		`{"kv_state_endpoint":{"namespace":"dynamo","component":"backend","name":"generate"},"worker":{"worker_id":%d,"dp_rank":0},"publisher_id":%d}`,
		uint64(worker), pub.ID()))})

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
	// The router connects in the background. It cannot ask for what it has not
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
