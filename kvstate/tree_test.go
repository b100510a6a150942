package kvstate

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/kvevents"
)

// storedBlocks returns an event that stores blocks under a parent, which is no parent
// if it is 0.
func storedBlocks(parent uint64, hashes ...uint64) kvevents.Event {
	e := kvevents.Event{Kind: kvevents.Stored, Medium: "device", Hashes: hashes}
	if parent != 0 {
		e.Parent = kvevents.Some(parent)
	}
	for _, h := range hashes {
		e.TokensHashes = append(e.TokensHashes, h+1000)
	}
	return e
}

func removedBlocks(hashes ...uint64) kvevents.Event {
	return kvevents.Event{Kind: kvevents.Removed, Medium: "device", Hashes: hashes}
}

func in(medium string, e kvevents.Event) kvevents.Event {
	e.Medium = medium
	return e
}

// describe returns the runs of a dump in a canonical order, such as "device 1>2,3".
func describe(t *testing.T, tree *Tree) string {
	t.Helper()
	var runs []string
	ids := map[string]uint64{}
	for e := range tree.Dump() {
		if e.ID != ids[e.Medium] {
			t.Errorf("event %d of %s has the id %d", ids[e.Medium], e.Medium, e.ID)
		}
		ids[e.Medium]++
		parent := ""
		if e.Parent.Present {
			parent = fmt.Sprint(e.Parent.Value)
		}
		run := strings.Trim(strings.ReplaceAll(fmt.Sprint(e.Hashes), " ", ","), "[]")
		runs = append(runs, fmt.Sprintf("%s %s>%s", e.Medium, parent, run))
		for i, h := range e.Hashes {
			if e.TokensHashes[i] != h+1000 {
				t.Errorf("block %d has the tokens hash %d", h, e.TokensHashes[i])
			}
		}
	}
	slices.Sort(runs)
	return strings.Join(runs, " | ")
}

func TestDump(t *testing.T) {
	t.Parallel()
	cleared := kvevents.Event{Kind: kvevents.Cleared, Medium: "device"}
	for _, c := range []struct {
		name   string
		events []kvevents.Event
		want   string
		blocks int
	}{
		{"empty", nil, "", 0},
		{"chain in three events", []kvevents.Event{storedBlocks(0, 1, 2), storedBlocks(2, 3), storedBlocks(3, 4)}, "device >1,2,3,4", 4},
		{"branch", []kvevents.Event{storedBlocks(0, 1, 2), storedBlocks(2, 3, 4), storedBlocks(2, 5)}, "device 2>3,4 | device 2>5 | device >1,2", 5},
		{"branch that ends", []kvevents.Event{storedBlocks(0, 1, 2), storedBlocks(2, 3, 4), storedBlocks(2, 5), removedBlocks(5)}, "device >1,2,3,4", 4},
		{"stored again", []kvevents.Event{storedBlocks(0, 1, 2), storedBlocks(0, 1, 2), storedBlocks(1, 2)}, "device >1,2", 2},
		{"leaf removed", []kvevents.Event{storedBlocks(0, 1, 2, 3), removedBlocks(3)}, "device >1,2", 2},
		{"middle removed", []kvevents.Event{storedBlocks(0, 1, 2, 3, 4), removedBlocks(2)}, "device >1", 3},
		{"middle stored again", []kvevents.Event{storedBlocks(0, 1, 2, 3, 4), removedBlocks(2), storedBlocks(1, 2)}, "device >1,2,3,4", 4},
		{"removed twice", []kvevents.Event{storedBlocks(0, 1, 2, 3), removedBlocks(2), removedBlocks(2, 2, 9)}, "device >1", 2},
		{"all removed, parents first", []kvevents.Event{storedBlocks(0, 1, 2, 3), removedBlocks(1, 2, 3)}, "", 0},
		{"unknown parent", []kvevents.Event{storedBlocks(0, 1), storedBlocks(7, 8)}, "device >1", 2},
		{"parent stored later", []kvevents.Event{storedBlocks(7, 8), storedBlocks(0, 7)}, "device >7,8", 2},
		{"hash 0", []kvevents.Event{storedBlocks(0, 0, 1)}, "device >0,1", 2},
		{"own parent", []kvevents.Event{storedBlocks(5, 5), storedBlocks(0, 1)}, "device >1", 1},
		{"other parent", []kvevents.Event{storedBlocks(0, 1, 2), storedBlocks(0, 5), storedBlocks(5, 2)}, "device >1 | device >5,2", 3},
		{"tiers", []kvevents.Event{storedBlocks(0, 1, 2), in("disk", storedBlocks(2, 3)), in("CPU", storedBlocks(0, 1)), removedBlocks(1)}, "disk 2>3 | host_pinned >1", 3},
		{"lower tier without its middle", []kvevents.Event{in("disk", storedBlocks(0, 1, 2, 3)), in("disk", removedBlocks(2))}, "disk 2>3 | disk >1", 2},
		{"cleared", []kvevents.Event{storedBlocks(0, 1), in("disk", storedBlocks(0, 1)), cleared, storedBlocks(0, 4)}, "device >4", 1},
		{"ignored", []kvevents.Event{in("moon", storedBlocks(0, 1)), {Kind: kvevents.Stored, Hashes: []uint64{1}}, {Kind: kvevents.Unknown}, storedBlocks(6)}, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var tree Tree
			for i := range c.events {
				tree.Apply(&c.events[i])
			}
			if got := describe(t, &tree); got != c.want {
				t.Errorf("dump %q, want %q", got, c.want)
			}
			if got := describe(t, tree.snapshot()); got != c.want {
				t.Errorf("dump of the copy %q, want %q", got, c.want)
			}
			if tree.Len() != c.blocks {
				t.Errorf("%d blocks, want %d", tree.Len(), c.blocks)
			}
		})
	}
}

// A tree that is built from a dump has the same dump. Random events give the same
// blocks as a map of each block to its parent.
func TestTreeAgainstModel(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	var tree Tree
	model := map[uint64]uint64{} // parent of each block, or 0
	for range 20_000 {
		var e kvevents.Event
		switch h := 1 + rng.Uint64N(300); {
		case rng.IntN(5000) == 0:
			e = kvevents.Event{Kind: kvevents.Cleared}
			clear(model)
		case rng.IntN(5) < 2:
			e = removedBlocks(h)
			delete(model, h)
		default: // a block has the same parent always
			e = storedBlocks(h/3, h)
			model[h] = h / 3
		}
		tree.Apply(&e)
	}
	for h := range uint64(2) { // without these, which have no parent, nothing is connected
		e := storedBlocks(0, h+1)
		tree.Apply(&e)
		model[h+1] = 0
	}
	connected := map[uint64]uint64{}
	for h := range model {
		at, ok := h, true
		for ok && at != 0 {
			at, ok = model[at]
		}
		if ok {
			connected[h] = model[h]
		}
	}
	if len(connected) == 0 || len(connected) == len(model) {
		t.Fatalf("%d of %d blocks are connected: the test shows nothing", len(connected), len(model))
	}
	got := map[uint64]uint64{}
	var again Tree
	for e := range tree.Dump() {
		parent := e.Parent.Value
		for _, h := range e.Hashes {
			got[h] = parent
			parent = h
		}
		again.Apply(e)
		if _, ok := got[e.Parent.Value]; e.Parent.Present && !ok {
			t.Fatalf("the parent %d comes after its children", e.Parent.Value)
		}
	}
	if !maps.Equal(got, connected) {
		t.Errorf("dump %v, want %v", got, connected)
	}
	if tree.Len() != len(model) {
		t.Errorf("%d blocks, want %d", tree.Len(), len(model))
	}
	if got, want := describe(t, &again), describe(t, &tree); got != want {
		t.Errorf("a tree of the dump has the dump %s, want %s", got, want)
	}
	for h := range model {
		e := removedBlocks(h)
		tree.Apply(&e)
	}
	if s := &tree.tiers[0]; len(s.index) != 0 || s.blocks != 0 {
		t.Errorf("%d nodes are left after all blocks were removed", len(s.index))
	}
}

// A chain whose old blocks are removed, as a sliding window does, takes no more memory
// than its present blocks.
func TestTreeForgetsRemovedParents(t *testing.T) {
	t.Parallel()
	var tree Tree
	for h := uint64(1); h < 10_000; h++ {
		e := storedBlocks(h-1, h)
		tree.Apply(&e)
		if h > 5 {
			e = removedBlocks(h - 5)
			tree.Apply(&e)
		}
	}
	if s := &tree.tiers[0]; len(s.index) > 10 || len(s.nodes) > 20 {
		t.Errorf("%d nodes in %d places for %d blocks", len(s.index), len(s.nodes), s.blocks)
	}
}

// grow adds n blocks in sequences of 100, each of which begins within another one.
func grow(tree *Tree, n int) {
	hash, rng := uint64(1), rand.New(rand.NewPCG(1, 2))
	e := kvevents.Event{Kind: kvevents.Stored, Medium: "device"}
	for tree.Len() < n {
		if e.Parent = kvevents.Some(rng.Uint64N(hash) * 0x9e3779b97f4a7c15); hash == 1 {
			e.Parent.Present = false
		}
		e.Hashes, e.TokensHashes = e.Hashes[:0], e.TokensHashes[:0]
		for range 100 {
			e.Hashes, e.TokensHashes = append(e.Hashes, hash*0x9e3779b97f4a7c15), append(e.TokensHashes, ^hash)
			hash++
		}
		tree.Apply(&e)
	}
}

// The promise is less than 120 bytes a block. The test is not parallel, since it
// measures the heap of the process.
//
//nolint:paralleltest // see above
func TestTreeSize(t *testing.T) {
	const blocks = 1_000_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	tree := &Tree{}
	grow(tree, blocks)
	size := (heap() - before) / blocks
	t.Logf("%d bytes a block", size)
	if size >= 110 {
		t.Errorf("%d bytes a block, want less than 120 with some room", size)
	}
	runtime.KeepAlive(tree)
}

func BenchmarkDump(b *testing.B) {
	h := newHistory(7, 0, domain)
	grow(&h.tree, 700_000)
	for b.Loop() {
		h.kept = nil
		a, done, err := h.answer(b.Context(), &kvevents.StateQuery{Worker: 7, Kind: "recovery"})
		if err != nil {
			b.Fatal(err)
		}
		item, err := a.MarshalMsgpack()
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(item)))
		done()
	}
}

func BenchmarkApply(b *testing.B) {
	b.ReportAllocs()
	e := storedBlocks(1)
	for i := range 8 {
		e.Hashes, e.TokensHashes = append(e.Hashes, uint64(i)), append(e.TokensHashes, uint64(i))
	}
	var tree Tree
	for n := uint64(1); b.Loop(); n++ {
		e.Parent.Value = n % 100_000 * 8
		for i := range e.Hashes {
			e.Hashes[i] = n%100_000*8 + uint64(i) + 8
		}
		tree.Apply(&e)
	}
}

// The zero value of a tree can be compared, dumped and cleared.
func TestZeroTree(t *testing.T) {
	t.Parallel()
	var tree Tree
	tree.Apply(&kvevents.Event{Kind: kvevents.Cleared})
	e := removedBlocks(1)
	tree.Apply(&e)
	if !reflect.DeepEqual(tree, Tree{}) {
		t.Error("the tree is not empty")
	}
}
