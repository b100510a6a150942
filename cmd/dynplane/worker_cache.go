package main

import "math/rand/v2"

// routerEvent is an event of a worker's cache for a KV router, in the format of
// the first generation of Dynamo: one event per message.
type routerEvent struct {
	WorkerID    uint64     `json:"worker_id"`
	StorageTier string     `json:"storage_tier"`
	Event       cacheEvent `json:"event"`
}

type cacheEvent struct {
	EventID uint64 `json:"event_id"` // 1, 2, 3, …
	Data    any    `json:"data"`     // storedData, removedData or clearedData
	DPRank  uint32 `json:"dp_rank"`

	// SentNS is the Unix time in nanoseconds. The demo adds it to measure latency;
	// other readers ignore unknown fields.
	SentNS int64 `json:"sent_ns"`
}

type storedData struct {
	Stored struct {
		ParentHash    *uint64 `json:"parent_hash"` // of the block before the first; nil at the start of a sequence
		StartPosition *uint32 `json:"start_position"`
		Blocks        []block `json:"blocks"`
	} `json:"stored"`
}

type removedData struct {
	Removed struct {
		BlockHashes []uint64 `json:"block_hashes"`
	} `json:"removed"`
}

const clearedData = "cleared"

type block struct {
	BlockHash   uint64    `json:"block_hash"`
	TokensHash  uint64    `json:"tokens_hash"`
	MMExtraInfo *struct{} `json:"mm_extra_info"`
}

const (
	cacheBlocks   = 2048 // capacity
	promptBlocks  = 16   // at most in a new sequence
	clearInterval = 5000 // events
)

// cache simulates the KV cache of an engine: a prompt stores a chain of blocks,
// generation extends a chain block by block, new chains evict the oldest, and now
// and then the cache is cleared.
type cache struct {
	worker uint64
	random *rand.Rand
	events uint64
	chains [][]uint64 // block hashes, the oldest chain first
	blocks int
}

func newCache(worker, seed uint64) *cache {
	return &cache{worker: worker, random: rand.New(rand.NewPCG(seed, 1337))}
}

// next changes the cache and returns the event.
func (c *cache) next() routerEvent {
	c.events++
	return routerEvent{
		WorkerID: c.worker, StorageTier: "device",
		Event: cacheEvent{EventID: c.events, Data: c.change()},
	}
}

func (c *cache) change() any {
	switch {
	case c.events%clearInterval == 0:
		c.chains, c.blocks = nil, 0
		return clearedData
	case c.blocks+promptBlocks > cacheBlocks:
		return c.evict()
	case len(c.chains) == 0 || c.random.IntN(4) == 0:
		c.chains = append(c.chains, nil)
		return c.store(len(c.chains)-1, 1+c.random.IntN(promptBlocks))
	}
	return c.store(c.random.IntN(len(c.chains)), 1)
}

// store adds n blocks to a chain.
func (c *cache) store(chain, n int) any {
	var data storedData
	hashes := c.chains[chain]
	if len(hashes) > 0 {
		parent := hashes[len(hashes)-1]
		data.Stored.ParentHash = &parent
	}
	for range n {
		b := block{BlockHash: c.random.Uint64(), TokensHash: c.random.Uint64()}
		data.Stored.Blocks = append(data.Stored.Blocks, b)
		hashes = append(hashes, b.BlockHash)
	}
	c.chains[chain] = hashes
	c.blocks += n
	return data
}

// evict removes the oldest chain.
func (c *cache) evict() any {
	var data removedData
	data.Removed.BlockHashes = c.chains[0]
	c.blocks -= len(c.chains[0])
	c.chains = c.chains[1:]
	return data
}
