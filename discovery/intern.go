package discovery

import (
	"bytes"
	"hash/maphash"
	"sync"
	"weak"
)

// storedEntry is an immutable entry of a store, decoded.
type storedEntry struct {
	id       ID
	instance Instance
}

// interned has the entries that the watches and caches of this process keep, so
// that clients that watch the same entries, be it on connections of their own,
// decode each of them once and share its memory. It keeps no entry alive.
var interned = internTable{seed: maphash.MakeSeed()}

type internTable struct {
	seed   maphash.Seed
	shards [64]internShard
}

type internShard struct {
	mu     sync.Mutex
	byHash map[uint64]weak.Pointer[storedEntry] // by the hash of the value
	limit  int                                  // the size at which the next entry drops dead ones
}

// entry returns the entry of id with a value, which it does not keep.
func (t *internTable) entry(id ID, value []byte) (*storedEntry, error) {
	hash := maphash.Bytes(t.seed, value)
	shard := &t.shards[hash%uint64(len(t.shards))]
	if e := shard.get(hash); e != nil && e.id == id && bytes.Equal(e.instance.Raw, value) {
		return e, nil
	}
	// The value may be a part of a message, which would stay in memory as a whole.
	in, err := decodeEntry(id, bytes.Clone(value))
	if err != nil {
		return nil, err
	}
	e := &storedEntry{in.ID(), in}
	shard.put(hash, e)
	return e, nil
}

func (s *internShard) get(hash uint64) *storedEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byHash[hash].Value()
}

func (s *internShard) put(hash uint64, e *storedEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byHash) >= s.limit {
		// A map does not shrink, so the living move to a new one.
		living := make(map[uint64]weak.Pointer[storedEntry], len(s.byHash)/2)
		for hash, p := range s.byHash {
			if p.Value() != nil {
				living[hash] = p
			}
		}
		s.byHash, s.limit = living, 2*len(living)+64
	}
	s.byHash[hash] = weak.Make(e)
}
