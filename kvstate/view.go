package kvstate

import (
	"cmp"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/dynplane/dynplane/kvevents"
)

// View is an index of the blocks of all ranks, by the tokens of prefixes. Its content
// is that of the updates of one [Follow]. Each block takes about 100 bytes.
//
// It is safe for concurrent use. Match waits while an update is applied.
type View struct {
	mu     sync.RWMutex
	seed   maphash.Seed
	ranks  map[rankKey]*viewRank
	slots  []*viewRank // nil is free
	owners ownerIndex
}

// viewRank is a rank in a View.
type viewRank struct {
	key    rankKey
	slot   uint32
	trust  Trust
	blocks map[viewBlock]uint64 // prefix that ends with the block
}

type viewBlock struct {
	tier kvevents.Tier
	hash uint64
}

// Match is how much of a sequence a rank has.
type Match struct {
	Worker uint64
	Rank   uint32
	Blocks int // at the beginning of the sequence, in any tier
	Trust  Trust
}

// NewView returns an empty view.
func NewView() *View {
	return &View{seed: maphash.MakeSeed(), ranks: map[rankKey]*viewRank{}, owners: ownerIndex{single: map[uint64]uint32{}}}
}

// Apply applies an update. Stored blocks whose parent the rank does not have are
// ignored, since no sequence begins with them.
func (v *View) Apply(u Update) {
	if u.Kind == Synced {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	key := rankKey{u.Worker, u.Rank}
	r := v.ranks[key]
	if r == nil {
		r = v.addRank(key)
	}
	r.trust = u.Trust
	switch u.Kind {
	case Gone:
		v.clear(r)
		delete(v.ranks, key)
		v.slots[r.slot] = nil
		return
	case Reset:
		v.clear(r)
	case TrustChanged, Change, Synced:
	}
	if u.Events != nil {
		for e := range u.Events {
			v.applyEvent(r, e)
		}
	}
}

func (v *View) addRank(key rankKey) *viewRank {
	slot := slices.Index(v.slots, nil)
	if slot < 0 {
		slot = len(v.slots)
		v.slots = append(v.slots, nil)
	}
	r := &viewRank{key: key, slot: uint32(slot), blocks: map[viewBlock]uint64{}}
	v.slots[slot], v.ranks[key] = r, r
	return r
}

func (v *View) clear(r *viewRank) {
	for _, prefix := range r.blocks {
		v.owners.remove(prefix, r.slot)
	}
	r.blocks = map[viewBlock]uint64{}
}

func (v *View) applyEvent(r *viewRank, e *kvevents.Event) {
	tier := e.Tier()
	switch e.Kind {
	case kvevents.Cleared:
		v.clear(r)
	case kvevents.Removed:
		for _, hash := range e.Hashes {
			v.removeBlock(r, viewBlock{tier, hash})
		}
	case kvevents.Stored:
		prefix, ok := uint64(0), true
		if e.Parent.Present {
			prefix, ok = r.find(e.Parent.Value)
		}
		if !ok || len(e.TokensHashes) != len(e.Hashes) {
			return
		}
		for i, hash := range e.Hashes {
			prefix = v.extend(prefix, e.TokensHashes[i])
			b := viewBlock{tier, hash}
			if old, is := r.blocks[b]; !is || old != prefix {
				v.removeBlock(r, b)
				r.blocks[b] = prefix
				v.owners.add(prefix, r.slot)
			}
		}
	case kvevents.Unknown:
	}
}

// find returns the prefix that ends with a block in any tier.
func (r *viewRank) find(hash uint64) (prefix uint64, ok bool) {
	for tier := kvevents.TierUnknown; tier <= kvevents.TierExternal && !ok; tier++ {
		prefix, ok = r.blocks[viewBlock{tier, hash}]
	}
	return prefix, ok
}

// removeBlock removes a block, and the rank from the owners of its prefix unless the
// same block is in another tier.
func (v *View) removeBlock(r *viewRank, b viewBlock) {
	prefix, ok := r.blocks[b]
	if !ok {
		return
	}
	delete(r.blocks, b)
	for tier := kvevents.TierUnknown; tier <= kvevents.TierExternal; tier++ {
		if other, is := r.blocks[viewBlock{tier, b.hash}]; is && other == prefix {
			return
		}
	}
	v.owners.remove(prefix, r.slot)
}

func (v *View) extend(prefix, tokens uint64) uint64 {
	return maphash.Comparable(v.seed, [2]uint64{prefix, tokens})
}

// Match returns the ranks that have at least the first block of a sequence, those with
// the most blocks first. The sequence is given by the hashes of its blocks' tokens;
// see [kvevents.AppendTokensHashes].
func (v *View) Match(tokensHashes []uint64) []Match {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var found []Match
	var left []uint32 // slots that have all blocks so far
	prefix := uint64(0)
	for i, tokens := range tokensHashes {
		prefix = v.extend(prefix, tokens)
		owners := v.owners.of(prefix)
		if i == 0 {
			left = slices.Clone(owners)
		}
		left = slices.DeleteFunc(left, func(slot uint32) bool {
			_, has := slices.BinarySearch(owners, slot)
			if !has {
				found = append(found, v.slots[slot].match(i))
			}
			return !has
		})
		if len(left) == 0 {
			break
		}
	}
	for _, slot := range left {
		found = append(found, v.slots[slot].match(len(tokensHashes)))
	}
	slices.SortFunc(found, func(a, b Match) int {
		return cmp.Or(cmp.Compare(b.Blocks, a.Blocks), cmp.Compare(a.Worker, b.Worker), cmp.Compare(a.Rank, b.Rank))
	})
	return found
}

func (r *viewRank) match(blocks int) Match { return Match{r.key.worker, r.key.rank, blocks, r.trust} }
