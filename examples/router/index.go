package main

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/dynplane/dynplane/eventplane"
)

// KVEvent is what the publisher publishes.
type KVEvent struct {
	WorkerID uint64   `json:"worker_id"`
	Stored   []uint64 `json:"stored"`
	Removed  []uint64 `json:"removed"`
}

// index holds what the registered workers have published. It is safe for concurrent use.
type index struct {
	prompt  []uint64 // hashes of its blocks
	mu      sync.Mutex
	workers map[uint64]*worker
	best    choice // printed last
}

type worker struct {
	sequence uint64          // of its last event
	blocks   map[uint64]bool // cached now
}

type choice struct {
	worker uint64
	cached int // blocks of the prompt
}

func (x *index) add(id uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.workers[id] == nil {
		x.workers[id] = &worker{blocks: map[uint64]bool{}}
	}
}

func (x *index) remove(id uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.workers, id)
	x.choose()
}

func (x *index) update(ev eventplane.TypedEvent[KVEvent]) {
	x.mu.Lock()
	defer x.mu.Unlock()
	w := x.workers[ev.Value.WorkerID]
	if w == nil {
		return // not registered, or not yet
	}
	if ev.Missed > 0 {
		clear(w.blocks) // unknown: the worker may have removed any of them
	}
	w.sequence = ev.Sequence
	for _, block := range ev.Value.Stored {
		w.blocks[block] = true
	}
	for _, block := range ev.Value.Removed {
		delete(w.blocks, block)
	}
	x.choose()
}

// choose prints the worker that has cached the most blocks of the prompt, if the
// choice has changed.
func (x *index) choose() {
	best := choice{cached: -1}
	for _, id := range slices.Sorted(maps.Keys(x.workers)) {
		cached := 0
		for _, block := range x.prompt {
			if x.workers[id].blocks[block] {
				cached++
			}
		}
		if cached > best.cached {
			best = choice{id, cached}
		}
	}
	switch {
	case best.cached < 0:
		fmt.Println("prompt waits for a worker")
	case best != x.best:
		fmt.Printf("prompt goes to worker %x: %d of %d blocks cached, event %d\n",
			best.worker, best.cached, len(x.prompt), x.workers[best.worker].sequence)
	}
	x.best = best
}
