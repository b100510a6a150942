package kvstate

import (
	"iter"
	"math"
	"slices"

	"github.com/dynplane/dynplane/kvevents"
)

// Tree is the set of blocks that one rank of a worker has, in all storage tiers. It
// takes 60 to 80 bytes a block. The zero value is an empty tree. A Tree must not be
// used by several goroutines at once.
type Tree struct {
	tiers [kvevents.TierExternal]tier // by Tier - TierDevice
}

// Apply changes the tree by an event in Dynamo's form, whose IDs and domains do not
// matter. A cleared event removes the blocks of all tiers, as in Dynamo. Unknown
// events, events of an unknown tier, and stored ones without the hashes of their
// tokens are ignored.
//
// Blocks whose parent is not in the tree are kept: their hashes cover all blocks
// before theirs, so that they have a place as soon as the parent is stored.
func (t *Tree) Apply(e *kvevents.Event) {
	if e.Kind == kvevents.Cleared {
		*t = Tree{}
		return
	}
	of := e.Tier()
	if of == kvevents.TierUnknown {
		return
	}
	s := &t.tiers[of-kvevents.TierDevice]
	switch {
	case e.Kind == kvevents.Removed:
		for _, hash := range e.Hashes {
			s.remove(hash)
		}
	case e.Kind == kvevents.Stored && len(e.Hashes) > 0 && len(e.TokensHashes) == len(e.Hashes):
		s.store(e)
	}
}

// Len returns the number of blocks, those without a parent included.
func (t *Tree) Len() (n int) {
	for i := range t.tiers {
		n += t.tiers[i].blocks
	}
	return n
}

// Dump returns an iterator over stored events from which the tree can be built
// again, as a worker of Dynamo answers a state query: the device first, one event
// for each run of blocks without a branch, parents before their children, and IDs
// from 0 in each tier. Worker and rank are not set.
//
// Blocks of the device whose parent is missing are left out: a router has no place
// for them. In the other tiers a router needs only the hash of the parent, which
// may be a block of another tier.
//
// The tree must not be changed during the iteration. The Event and its slices are
// valid until the next one.
func (t *Tree) Dump() iter.Seq[*kvevents.Event] {
	return func(yield func(*kvevents.Event) bool) {
		e := &kvevents.Event{Kind: kvevents.Stored, Tag: kvevents.Stored.String()}
		for i := range t.tiers {
			of := kvevents.TierDevice + kvevents.Tier(i)
			e.Medium, e.ID = of.String(), 0
			if !t.tiers[i].dump(e, of != kvevents.TierDevice, yield) {
				return
			}
		}
	}
}

// snapshot returns a copy for Dump and Len, which must not be changed.
func (t *Tree) snapshot() *Tree {
	c := &Tree{}
	for i := range t.tiers {
		c.tiers[i].nodes, c.tiers[i].blocks = slices.Clone(t.tiers[i].nodes), t.tiers[i].blocks
	}
	return c
}

// tier is the blocks of one tier: nodes that refer to each other by their index.
type tier struct {
	index  map[uint64]ref // by hash
	nodes  []node         // the first is the root, which is no block
	free   ref            // unused nodes, linked by next, or 0
	blocks int
}

type ref uint32

// missing is the parent of a node that is no block of the worker, and exists only
// because it has children. It has no parent, so that there are no more such nodes
// than blocks.
const missing ref = math.MaxUint32

// node is a block. Its children are a list, linked in both directions.
type node struct {
	hash, tokens uint64
	parent       ref // 0 is the root
	child        ref // first one, or 0
	prev, next   ref // siblings, or 0
}

func (s *tier) store(e *kvevents.Event) {
	if s.nodes == nil {
		s.index, s.nodes = make(map[uint64]ref), make([]node, 1)
	}
	parent := ref(0)
	if e.Parent.Present {
		parent = s.find(e.Parent.Value)
	}
	first := parent
	for i, hash := range e.Hashes {
		n := s.find(hash)
		if n == parent {
			break // its own parent
		}
		s.place(n, parent)
		s.nodes[n].tokens = e.TokensHashes[i]
		parent = n
	}
	s.release(first)
}

// find returns the node of a hash. If there is none, it adds one that is missing.
func (s *tier) find(hash uint64) ref {
	n, ok := s.index[hash]
	if ok {
		return n
	}
	if n = s.free; n != 0 {
		s.free = s.nodes[n].next
	} else {
		n = ref(len(s.nodes))
		s.nodes = append(s.nodes, node{})
	}
	s.nodes[n] = node{hash: hash, parent: missing}
	s.index[hash] = n
	return n
}

// place makes n a block with that parent.
func (s *tier) place(n, parent ref) {
	b := &s.nodes[n]
	if b.parent == parent {
		return
	}
	if b.parent == missing {
		s.blocks++
	} else {
		s.unlink(n)
	}
	b.parent, b.prev, b.next = parent, 0, s.nodes[parent].child
	if b.next != 0 {
		s.nodes[b.next].prev = n
	}
	s.nodes[parent].child = n
}

// unlink removes a block from the children of its parent.
func (s *tier) unlink(n ref) {
	b := &s.nodes[n]
	if b.prev != 0 {
		s.nodes[b.prev].next = b.next
	} else {
		s.nodes[b.parent].child = b.next
	}
	if b.next != 0 {
		s.nodes[b.next].prev = b.prev
	}
	parent := b.parent
	b.parent, b.prev, b.next = missing, 0, 0
	s.release(parent)
}

func (s *tier) remove(hash uint64) {
	n, ok := s.index[hash]
	if !ok || s.nodes[n].parent == missing {
		return
	}
	s.blocks--
	s.unlink(n)
	s.release(n)
}

// release frees a node that is missing, unless it has children.
func (s *tier) release(n ref) {
	b := &s.nodes[n]
	if b.parent != missing || b.child != 0 {
		return
	}
	delete(s.index, b.hash)
	*b = node{next: s.free}
	s.free = n
}

// dump yields the blocks as the event e, and reports false if yield did. Blocks below
// a node that is missing are included if orphans is set.
func (s *tier) dump(e *kvevents.Event, orphans bool, yield func(*kvevents.Event) bool) bool {
	var starts []ref // of the runs that have not been yielded
	push := func(n ref) {
		for c := s.nodes[n].child; c != 0; c = s.nodes[c].next {
			starts = append(starts, c)
		}
	}
	for i := range s.nodes {
		if i == 0 || orphans && s.nodes[i].parent == missing {
			push(ref(i))
		}
	}
	for len(starts) > 0 {
		at := starts[len(starts)-1]
		starts = starts[:len(starts)-1]
		parent := s.nodes[at].parent
		e.Parent = kvevents.Optional[uint64]{Value: s.nodes[parent].hash, Present: parent != 0}
		e.Hashes, e.TokensHashes = e.Hashes[:0], e.TokensHashes[:0]
		for {
			b := &s.nodes[at]
			e.Hashes, e.TokensHashes = append(e.Hashes, b.hash), append(e.TokensHashes, b.tokens)
			if b.child == 0 || s.nodes[b.child].next != 0 {
				break
			}
			at = b.child
		}
		push(at)
		if !yield(e) {
			return false
		}
		e.ID++
	}
	return true
}
