package discovery

import (
	"iter"
	"slices"
	"sort"
)

// cacheIndex is an immutable sorted set of entries. A change copies one chunk and
// the list of chunks, so that its cost hardly depends on the number of entries,
// and readers of the former set go on.
type cacheIndex struct {
	compare func(a, b *cacheEntry) int
	chunks  [][]*cacheEntry // none is empty
}

// chunkSize is the size of new chunks; one that is twice as large is divided.
const chunkSize = 128

// newCacheIndex sorts entries, which it keeps.
func newCacheIndex(compare func(a, b *cacheEntry) int, entries []*cacheEntry) cacheIndex {
	slices.SortFunc(entries, compare)
	x := cacheIndex{compare: compare}
	for chunk := range slices.Chunk(entries, chunkSize) {
		x.chunks = append(x.chunks, chunk)
	}
	return x
}

// find returns the place of the first entry that is not before what is looked for.
func (x cacheIndex) find(before func(*cacheEntry) bool) (chunk, at int) {
	chunk = sort.Search(len(x.chunks), func(i int) bool {
		return !before(x.chunks[i][len(x.chunks[i])-1])
	})
	if chunk < len(x.chunks) {
		at = sort.Search(len(x.chunks[chunk]), func(i int) bool { return !before(x.chunks[chunk][i]) })
	}
	return chunk, at
}

// from yields the entries that are not before what is looked for, in order.
func (x cacheIndex) from(before func(*cacheEntry) bool) iter.Seq[*cacheEntry] {
	return func(yield func(*cacheEntry) bool) {
		chunk, at := x.find(before)
		for ; chunk < len(x.chunks); chunk, at = chunk+1, 0 {
			for _, e := range x.chunks[chunk][at:] {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// with returns the set with e, which replaces an entry that compares equal.
func (x cacheIndex) with(e *cacheEntry) cacheIndex {
	if len(x.chunks) == 0 {
		return cacheIndex{x.compare, [][]*cacheEntry{{e}}}
	}
	chunk, at := x.find(func(o *cacheEntry) bool { return x.compare(o, e) < 0 })
	if chunk == len(x.chunks) { // after all others
		chunk--
		at = len(x.chunks[chunk])
	}
	former := x.chunks[chunk]
	if at < len(former) && x.compare(former[at], e) == 0 {
		changed := slices.Clone(former)
		changed[at] = e
		return x.replace(chunk, changed)
	}
	changed := slices.Concat(former[:at], []*cacheEntry{e}, former[at:])
	if len(changed) < 2*chunkSize {
		return x.replace(chunk, changed)
	}
	return x.replace(chunk, changed[:chunkSize:chunkSize], changed[chunkSize:])
}

// without returns the set without the entry that compares equal to e.
func (x cacheIndex) without(e *cacheEntry) cacheIndex {
	chunk, at := x.find(func(o *cacheEntry) bool { return x.compare(o, e) < 0 })
	if chunk == len(x.chunks) || x.compare(x.chunks[chunk][at], e) != 0 {
		return x
	}
	former := x.chunks[chunk]
	if len(former) == 1 {
		return x.replace(chunk)
	}
	return x.replace(chunk, slices.Concat(former[:at], former[at+1:]))
}

// replace returns the set with other chunks in the place of one.
func (x cacheIndex) replace(chunk int, by ...[]*cacheEntry) cacheIndex {
	return cacheIndex{x.compare, slices.Concat(x.chunks[:chunk], by, x.chunks[chunk+1:])}
}
