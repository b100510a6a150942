package kvstate

import (
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/dynplane/dynplane/kvevents"
)

// seqHash returns the hash of the last block of a sequence, which differs for each
// worker as with engines that seed it.
func seqHash(worker uint64, seq []uint64) uint64 {
	h := worker
	for _, tokens := range seq {
		h = h*31 + tokens + 1
	}
	return h
}

func update(kind UpdateKind, worker uint64, events ...kvevents.Event) Update {
	return Update{Kind: kind, Worker: worker, Trust: Live, Events: func(yield func(*kvevents.Event) bool) {
		for i := range events {
			if !yield(&events[i]) {
				return
			}
		}
	}}
}

// storedSeq stores the blocks of a sequence from one on, in a tier.
func storedSeq(worker uint64, medium string, seq []uint64, from int) kvevents.Event {
	e := kvevents.Event{Kind: kvevents.Stored, Medium: medium}
	if from > 0 {
		e.Parent = kvevents.Some(seqHash(worker, seq[:from]))
	}
	for i := from; i < len(seq); i++ {
		e.Hashes = append(e.Hashes, seqHash(worker, seq[:i+1]))
		e.TokensHashes = append(e.TokensHashes, seq[i])
	}
	return e
}

// TestViewAgainstModel compares matches with a set of sequences for each worker and
// tier, under random updates.
func TestViewAgainstModel(t *testing.T) {
	media := []string{"device", "host_pinned"}
	rng := rand.New(rand.NewPCG(1, 2))
	random := func() []uint64 {
		seq := make([]uint64, 1+rng.IntN(5))
		for i := range seq {
			seq[i] = rng.Uint64N(2)
		}
		return seq
	}
	v := NewView()
	model := map[uint64]map[viewBlock][]uint64{} // sequence that ends with the block
	has := func(worker uint64, seq []uint64) bool {
		for tier := range kvevents.TierExternal {
			if _, is := model[worker][viewBlock{tier, seqHash(worker, seq)}]; is {
				return true
			}
		}
		return false
	}
	for step := range 20000 {
		worker := 1 + rng.Uint64N(5)
		medium := media[rng.IntN(2)]
		tier := (&kvevents.Event{Medium: medium}).Tier()
		seq := random()
		if model[worker] == nil {
			model[worker] = map[viewBlock][]uint64{}
		}
		switch n := rng.IntN(100); {
		case n == 0:
			v.Apply(Update{Kind: Gone, Worker: worker})
			delete(model, worker)
		case n == 1:
			v.Apply(update(Reset, worker))
			clear(model[worker])
		case n == 2:
			v.Apply(update(Change, worker, kvevents.Event{Kind: kvevents.Cleared, Medium: medium}))
			clear(model[worker])
		case n < 50:
			v.Apply(update(Change, worker, kvevents.Event{Kind: kvevents.Removed, Medium: medium, Hashes: []uint64{seqHash(worker, seq)}}))
			delete(model[worker], viewBlock{tier, seqHash(worker, seq)})
		default:
			from := rng.IntN(len(seq))
			v.Apply(update(Change, worker, storedSeq(worker, medium, seq, from)))
			if from == 0 || has(worker, seq[:from]) {
				for i := from; i < len(seq); i++ {
					model[worker][viewBlock{tier, seqHash(worker, seq[:i+1])}] = seq[:i+1]
				}
			}
		}
		prompt := random()
		want := map[uint64]int{}
		for w := range model {
			n := 0
			for n < len(prompt) && has(w, prompt[:n+1]) {
				n++
			}
			if n > 0 {
				want[w] = n
			}
		}
		got := map[uint64]int{}
		matches := v.Match(prompt)
		for _, m := range matches {
			got[m.Worker] = m.Blocks
		}
		sorted := slices.IsSortedFunc(matches, func(a, b Match) int { return b.Blocks - a.Blocks })
		if !maps.Equal(got, want) || len(matches) != len(want) || !sorted {
			t.Fatalf("step %d: %v for %v, want %v", step, matches, prompt, want)
		}
	}
	for worker := range model {
		v.Apply(Update{Kind: Gone, Worker: worker})
	}
	if len(v.ranks)+len(v.owners.single)+len(v.owners.many) > 0 || len(v.slots) > 5 {
		t.Errorf("%d ranks, %d and %d prefixes, %d slots remain", len(v.ranks), len(v.owners.single), len(v.owners.many), len(v.slots))
	}
}

func TestViewReportsTrust(t *testing.T) {
	v := NewView()
	v.Apply(Update{Kind: Synced})
	v.Apply(update(Reset, 7, storedSeq(7, "device", []uint64{1, 2}, 0)))
	v.Apply(Update{Kind: TrustChanged, Worker: 7, Trust: Degraded})
	if got := v.Match([]uint64{1, 3}); !slices.Equal(got, []Match{{7, 0, 1, Degraded}}) {
		t.Errorf("matches %v", got)
	}
	if got := v.Match(nil); len(got) > 0 {
		t.Errorf("matches %v of nothing", got)
	}
}

func TestViewIsSafeForConcurrentUse(t *testing.T) {
	v := NewView()
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for range 1000 {
				for _, m := range v.Match([]uint64{1, 2, 3}) {
					if m.Blocks != 3 {
						t.Errorf("%+v, want all or nothing of a Reset", m)
					}
				}
			}
		})
	}
	for i := range uint64(1000) {
		v.Apply(update(Reset, i%3, storedSeq(i%3, "device", []uint64{1, 2, 3}, 0)))
	}
	readers.Wait()
}

// BenchmarkView applies stored blocks of 100 workers, and reports the memory of each.
func BenchmarkView(b *testing.B) {
	const workers, run = 100, 16
	v := NewView()
	before := heapBytes()
	e := kvevents.Event{Kind: kvevents.Stored, Medium: "device", Hashes: make([]uint64, run), TokensHashes: make([]uint64, run)}
	b.ResetTimer()
	for n := range b.N {
		for i := range run {
			e.Hashes[i], e.TokensHashes[i] = uint64(n*run+i)<<8, uint64(n*run+i)
		}
		v.Apply(update(Change, uint64(n%workers), e))
	}
	b.StopTimer()
	b.ReportMetric(float64(heapBytes()-before)/float64(b.N*run), "B/block")
	runtime.KeepAlive(v)
}
