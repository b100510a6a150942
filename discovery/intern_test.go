package discovery

import (
	"hash/maphash"
	"runtime"
	"testing"
)

func TestEntriesAreDecodedOnce(t *testing.T) {
	t.Parallel()
	table := internTable{seed: maphash.MakeSeed()}
	value := scriptValue(1, "a")
	entry := func(id ID, value []byte) *storedEntry {
		t.Helper()
		e, err := table.entry(id, value)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	first := entry(scriptID(1), value)
	if again := entry(scriptID(1), append([]byte(nil), value...)); again != first {
		t.Error("an equal entry was decoded again")
	}
	if other := entry(scriptID(1), scriptValue(1, "b")); other == first {
		t.Error("another value has the same entry")
	}
	if _, err := table.entry(scriptID(2), value); err == nil {
		t.Error("a value under the id of another was accepted")
	}
	value[len(value)/2] ^= 1
	if string(first.instance.Raw) != string(scriptValue(1, "a")) {
		t.Error("the entry shares the memory of the message")
	}
}

func TestInternedEntriesAreNotKept(t *testing.T) {
	t.Parallel()
	table := internTable{seed: maphash.MakeSeed()}
	const entries = 5_000
	kept := map[uint64]*storedEntry{}
	for i := range uint64(5 * entries) {
		e, err := table.entry(scriptID(i), scriptValue(i, "a"))
		if err != nil {
			t.Fatal(err)
		}
		if i < 100 {
			kept[i] = e
		}
		if i%entries == 0 {
			runtime.GC()
		}
	}
	size := 0
	for i := range table.shards {
		size += len(table.shards[i].byHash)
	}
	// The entries since the last collection, and twice the living before that.
	if size > 4*entries {
		t.Errorf("the table has %d entries, of which %d are in use", size, len(kept))
	}
	for i, e := range kept {
		if again, err := table.entry(scriptID(i), scriptValue(i, "a")); err != nil || again != e {
			t.Fatalf("entry %d in use was dropped", i)
		}
	}
}
