package kvstate

import "slices"

// ownerIndex maps prefixes to the slots of the ranks that have them. Most prefixes
// have one owner, which takes no memory of its own.
type ownerIndex struct {
	single map[uint64]uint32   // the owner, or manyOwners
	many   map[uint64][]uint32 // in ascending order, two or more
}

const manyOwners = 1<<32 - 1

// of returns the owners of a prefix in ascending order. They must not be changed.
func (x *ownerIndex) of(prefix uint64) []uint32 {
	slot, ok := x.single[prefix]
	switch {
	case !ok:
		return nil
	case slot == manyOwners:
		return x.many[prefix]
	}
	return []uint32{slot}
}

// add adds an owner, which may be one already.
func (x *ownerIndex) add(prefix uint64, slot uint32) {
	owners := x.of(prefix)
	i, has := slices.BinarySearch(owners, slot)
	switch {
	case has:
	case len(owners) == 0:
		x.single[prefix] = slot
	default:
		if x.many == nil {
			x.many = map[uint64][]uint32{}
		}
		x.single[prefix] = manyOwners
		x.many[prefix] = slices.Insert(owners, i, slot)
	}
}

// remove removes an owner, which may be none.
func (x *ownerIndex) remove(prefix uint64, slot uint32) {
	owners := x.of(prefix)
	i, has := slices.BinarySearch(owners, slot)
	switch {
	case !has:
	case len(owners) == 1:
		delete(x.single, prefix)
	case len(owners) == 2:
		x.single[prefix] = owners[1-i]
		delete(x.many, prefix)
	default:
		x.many[prefix] = slices.Delete(owners, i, i+1)
	}
}
