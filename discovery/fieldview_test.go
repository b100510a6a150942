package discovery

import "testing"

// A change costs the same however many instances there are: anything that goes
// over all of them into a new map allocates in proportion.
func TestFieldViewVisitsWhatChanged(t *testing.T) {
	const instances = 8_000
	view := newFieldView[int]()
	id := func(instance uint64, suffix string) ID {
		return ID{Kind: KindModel, Scope: dynamo, Suffix: suffix, Instance: instance}
	}
	for i := range uint64(instances) {
		view.put(id(i, ""), 0)
	}
	if !view.refresh() || len(view.fields) != instances {
		t.Fatalf("a view of %d instances, want %d", len(view.fields), instances)
	}
	n := 0
	if allocs := testing.AllocsPerRun(instances, func() {
		n++
		view.put(id(uint64(n%instances), ""), n)
		view.put(id(uint64(n%instances), "adapter"), -n)
		if len(view.dirty) != 1 || !view.refresh() || view.refresh() || view.fields[uint64(n%instances)] != n {
			t.Fatalf("change %d is not shown once", n)
		}
	}); allocs > 10 {
		t.Errorf("%v allocations for a change, want at most 10", allocs)
	}
	for i := range uint64(instances) {
		view.remove(id(i, ""))
		view.remove(id(i, "adapter"))
	}
	if !view.refresh() || len(view.fields) != 0 || len(view.cards) != 0 {
		t.Errorf("%d fields and %d instances are left", len(view.fields), len(view.cards))
	}
}
