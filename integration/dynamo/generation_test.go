package dynamo

import (
	"testing"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/dynamotest"
)

const (
	kvEvents = "kv-events"
	load     = "kv_metrics"
	fpm      = "forward-pass-metrics"
)

var generate = discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}

// scopes returns the scope of each topic of a worker.
func scopes(version string) map[string]discovery.Scope {
	if version == dynamotest.Gen1 {
		component := discovery.Scope{Namespace: "dynamo", Component: "backend"}
		return map[string]discovery.Scope{kvEvents: component, load: {Namespace: "dynamo"}, fpm: component}
	}
	return map[string]discovery.Scope{kvEvents: generate, load: generate, fpm: generate}
}

// routerEvent is what workers publish on kv-events: the newer generation in
// lists, the older one by one.
type routerEvent struct {
	WorkerID    uint64 `json:"worker_id"`
	StorageTier string `json:"storage_tier,omitempty"`
	Event       struct {
		EventID uint64 `json:"event_id"`
		Data    struct {
			Stored stored `json:"stored"`
		} `json:"data"`
		DPRank uint32 `json:"dp_rank"`
	} `json:"event"`
}

type stored struct {
	ParentHash    *uint64 `json:"parent_hash"`
	StartPosition *uint32 `json:"start_position"`
	Blocks        []block `json:"blocks"`
}

type block struct {
	BlockHash  uint64 `json:"block_hash"`
	TokensHash uint64 `json:"tokens_hash"`
	MMInfo     any    `json:"mm_extra_info"`
}

// routerEvents decodes the payload of an event on kv-events.
func routerEvents(t *testing.T, version string, ev eventplane.Event) (events []routerEvent) {
	t.Helper()
	if ev.Codec.Name() != codec.Msgpack.Name() {
		t.Errorf("the codec of a real event is %s", ev.Codec.Name())
	}
	var err error
	if version == dynamotest.Gen1 {
		events = make([]routerEvent, 1)
		err = ev.Decode(&events[0])
	} else {
		err = ev.Decode(&events)
	}
	if err != nil {
		t.Fatal(err)
	}
	return events
}

type forwardPass struct {
	WorkerID  string `json:"worker_id"`
	Scheduled struct {
		Prefills int `json:"num_prefill_requests"`
	} `json:"scheduled_requests"`
}

type activeLoad struct {
	WorkerID     uint64 `json:"worker_id"`
	DecodeBlocks *int   `json:"active_decode_blocks"`
}

func decode[T any](t *testing.T, ev eventplane.Event) (v T) {
	t.Helper()
	if err := ev.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}
