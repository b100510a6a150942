package main

import (
	"encoding/json"
	"slices"
	"testing"
)

// Events never refer to a block that a router cannot have seen.
func TestCacheEvents(t *testing.T) {
	t.Parallel()
	c := newCache(42, 1)
	live := map[uint64]bool{}
	seen := map[string]int{}
	for i := range uint64(3 * clearInterval) {
		ev := c.next()
		if ev.WorkerID != 42 || ev.Event.EventID != i+1 {
			t.Fatalf("event %d: worker %d, id %d", i, ev.WorkerID, ev.Event.EventID)
		}
		switch data := ev.Event.Data.(type) {
		case storedData:
			seen["stored"]++
			if p := data.Stored.ParentHash; p != nil {
				seen["with parent"]++
				if !live[*p] {
					t.Fatalf("event %d: its parent is not stored", ev.Event.EventID)
				}
			}
			for _, b := range data.Stored.Blocks {
				live[b.BlockHash] = true
			}
		case removedData:
			seen["removed"]++
			for _, hash := range data.Removed.BlockHashes {
				if !live[hash] {
					t.Fatalf("event %d removes what is not stored", ev.Event.EventID)
				}
				delete(live, hash)
			}
		default:
			seen["cleared"]++
			clear(live)
		}
		if len(live) > cacheBlocks || len(live) != c.blocks {
			t.Fatalf("event %d: %d blocks stored, %d counted, room for %d", ev.Event.EventID, len(live), c.blocks, cacheBlocks)
		}
	}
	for _, kind := range []string{"stored", "with parent", "removed", "cleared"} {
		if seen[kind] == 0 {
			t.Errorf("no event is %s: %v", kind, seen)
		}
	}
}

// The form is that of the router events in docs/protocol.md.
func TestRouterEventJSON(t *testing.T) {
	t.Parallel()
	parent := uint64(7)
	stored := storedData{}
	stored.Stored.ParentHash, stored.Stored.Blocks = &parent, []block{{BlockHash: 8, TokensHash: 9}}
	removed := removedData{}
	removed.Removed.BlockHashes = []uint64{8}
	var got []string
	for _, data := range []any{stored, removed, clearedData} {
		text, err := json.Marshal(routerEvent{
			WorkerID: 42, StorageTier: "device",
			Event: cacheEvent{EventID: 1, Data: data, SentNS: 5},
		})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(text))
	}
	event := func(data string) string {
		return `{"worker_id":42,"storage_tier":"device","event":{"event_id":1,"data":` + data + `,"dp_rank":0,"sent_ns":5}}`
	}
	want := []string{
		event(`{"stored":{"parent_hash":7,"start_position":null,"blocks":[{"block_hash":8,"tokens_hash":9,"mm_extra_info":null}]}}`),
		event(`{"removed":{"block_hashes":[8]}}`),
		event(`"cleared"`),
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
}
