package discovery

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestCacheIndexIsASortedSet compares an index with a sorted slice over random
// changes. Former sets must not change.
func TestCacheIndexIsASortedSet(t *testing.T) {
	t.Parallel()
	const seed = 7
	random := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a test that can be repeated
	entry := func(i uint64) *cacheEntry { return &cacheEntry{storedEntry: &storedEntry{id: scriptID(i)}} }
	content := func(x cacheIndex) (out []*cacheEntry) {
		for e := range x.from(func(*cacheEntry) bool { return false }) {
			out = append(out, e)
		}
		return out
	}
	var want []*cacheEntry
	for i := range uint64(1000) {
		want = append(want, entry(2*i))
	}
	x := newCacheIndex(compareIDs, slices.Clone(want))
	for round := range 4000 {
		e := entry(random.Uint64N(3000))
		check := round%50 == 0
		former, before := x, []*cacheEntry(nil)
		if check {
			before = content(x)
		}
		at, found := slices.BinarySearchFunc(want, e, compareIDs)
		switch grow := round < 1500; {
		case !grow && random.IntN(5) > 0 || grow && random.IntN(5) == 0:
			x = x.without(e)
			if found {
				want = slices.Delete(want, at, at+1)
			}
		default:
			x = x.with(e)
			if found {
				want[at] = e
			} else {
				want = slices.Insert(want, at, e)
			}
		}
		if check && (!slices.Equal(content(x), want) || !slices.Equal(content(former), before)) {
			t.Fatalf("round %d: the index has %d entries, want %d, and its former state must not change", round, len(content(x)), len(want))
		}
		for _, chunk := range x.chunks {
			if len(chunk) == 0 || len(chunk) >= 2*chunkSize {
				t.Fatalf("a chunk has %d entries", len(chunk))
			}
		}
		from := slices.IndexFunc(want, func(o *cacheEntry) bool { return compareIDs(o, e) >= 0 })
		for got := range x.from(func(o *cacheEntry) bool { return compareIDs(o, e) < 0 }) {
			if from < 0 || got != want[from] {
				t.Fatalf("round %d: the first entry from %v on is %v", round, e.id, got.id)
			}
			break
		}
	}
}

// manyQueries returns queries of a few names, and all ids of these names.
func manyQueries() (queries []Query, ids []ID) {
	scopes := []Scope{{}, {"a", "", ""}, {"a", "x", ""}, {"a", "x", "e"}, {"a", "y", "e"}, {"b", "", ""}, {"b", "x", "e"}, {"", "x", ""}}
	for _, scope := range scopes {
		for _, topic := range []string{"", "t", "u"} {
			for _, kind := range []Kind{KindEndpoint, KindModel, KindEventChannel, KindEventSource, KindAny} {
				for _, exact := range []bool{false, true} {
					queries = append(queries, Query{Kind: kind, Scope: scope, Topic: topic, Exact: exact})
				}
				if id := (ID{Kind: kind, Scope: scope, Topic: topic}); id.validate() == nil {
					ids = append(ids, id)
				}
			}
		}
	}
	return queries, ids
}

// TestCacheStateMatching compares ranges of the index with Query.Match.
func TestCacheStateMatching(t *testing.T) {
	t.Parallel()
	queries, ids := manyQueries()
	var entries []*cacheEntry
	for _, id := range ids {
		entries = append(entries, &cacheEntry{storedEntry: &storedEntry{id: id}})
	}
	state := &cacheState{byID: newCacheIndex(compareIDs, entries)}
	slices.SortFunc(ids, ID.Compare)
	for _, q := range queries {
		var got []ID
		for e := range state.matching(q) {
			got = append(got, e.id)
		}
		want := slices.DeleteFunc(slices.Clone(ids), func(id ID) bool { return !q.Match(id) })
		if !slices.Equal(got, want) {
			t.Fatalf("%+v matches %v, want %v", q, got, want)
		}
	}
}

// TestContainedQueries compares contains and union with Match.
func TestContainedQueries(t *testing.T) {
	t.Parallel()
	queries, ids := manyQueries()
	for _, q := range queries {
		for _, o := range queries {
			union := q.union(o)
			if !union.contains(q) || !union.contains(o) {
				t.Fatalf("the union of %+v and %+v is %+v", q, o, union)
			}
			for _, id := range ids {
				if q.contains(o) && o.Match(id) && !q.Match(id) {
					t.Fatalf("%+v contains %+v, but does not match %v", q, o, id)
				}
			}
		}
		if !q.contains(q) || !(Query{Kind: KindAny}).contains(q) {
			t.Errorf("%+v is not contained in itself, or in the query of everything", q)
		}
	}
}
