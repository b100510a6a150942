package kvstate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/internal/wait"
	"github.com/dynplane/dynplane/kvevents"
)

// faults is a run of workers that publish over a plane that loses and delays events,
// and answer slowly or not at all.
type faults struct {
	*fakePlane
	t       *testing.T
	rng     *rand.Rand
	workers []*fakeWorker // by slot
	ids     uint64

	mu  sync.Mutex
	all map[rankKey]*fakeWorker
	off chan struct{} // closed when the faults end
}

// TestFollowIsTheStateAfterItsLastEvent compares a follower with its workers under
// random loss, delay, restarts, errors and slow answers: after each update the state
// of a rank is what its worker had after the event of the cursor, and in the end what
// it has.
func TestFollowIsTheStateAfterItsLastEvent(t *testing.T) {
	for seed := range uint64(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runFaults(t, seed) })
		})
	}
}

func runFaults(t *testing.T, seed uint64) {
	f := &faults{fakePlane: newFakePlane(), t: t, rng: rand.New(rand.NewPCG(seed, 1)),
		all: map[rankKey]*fakeWorker{}, off: make(chan struct{})}
	f.query = f.answer(rand.New(rand.NewPCG(seed, 2)))
	for range 3 {
		f.start(len(f.workers))
	}
	v := f.follow(t, FollowOptions{RankBytes: 1 << (8 + seed%6), TotalBytes: 1 << 12})
	v.onApply = func(r *rankState, blocks blockSet) {
		w := f.worker(r.key)
		w.mu.Lock()
		defer w.mu.Unlock()
		if int(r.cursor) >= len(w.history) || !maps.Equal(blocks, w.history[r.cursor]) {
			t.Errorf("worker %d after event %d of %d: %v", r.key.worker, r.cursor, w.last, blocks)
		}
	}
	for range 600 {
		slot := f.rng.IntN(3)
		if f.rng.IntN(200) == 0 {
			v.mu.Lock()
			f.unregister(f.workers[slot].source(t, true))
			f.start(slot)
			v.mu.Unlock()
		}
		f.publish(f.workers[slot])
		_ = wait.Sleep(t.Context(), time.Duration(f.rng.IntN(100))*time.Millisecond)
	}
	close(f.off)
	_ = wait.Sleep(t.Context(), 10*time.Minute) // queries that are under way, the longest pause, and two checks
	synctest.Wait()
	for _, w := range f.workers {
		blocks := v.of(w.key)
		if v.mu.Lock(); v.ranks[w.key].trust != Live || !maps.Equal(blocks, w.blocks) {
			t.Errorf("worker %d is %v (%s) at event %d of %d: blocks %v, want %v", w.key.worker, v.ranks[w.key].trust, v.ranks[w.key].reason,
				v.ranks[w.key].cursor, w.last, blocks, w.blocks)
		}
		v.mu.Unlock()
	}
	if len(v.blocks) != len(f.workers) || v.budget.used != 0 || v.running != [2]int{} {
		t.Errorf("%d ranks, %d bytes held, queries %v: want %d, 0, none", len(v.blocks), v.budget.used, v.running, len(f.workers))
	}
}

// start puts a new worker into a slot.
func (f *faults) start(slot int) {
	f.ids++
	w := newFakeWorker(f.ids, 1000+f.ids)
	f.mu.Lock()
	f.all[w.key] = w
	f.mu.Unlock()
	if slot == len(f.workers) {
		f.workers = append(f.workers, nil)
	}
	f.workers[slot] = w
	for range f.rng.IntN(40) {
		w.record(f.random()) // before anyone is connected
	}
	f.register(w.source(f.t, true))
}

func (f *faults) worker(key rankKey) *fakeWorker {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all[key]
}

func (f *faults) random() kvevents.Event {
	hash := uint64(f.rng.IntN(12))
	switch f.rng.IntN(20) {
	case 0:
		return kvevents.Event{Kind: kvevents.Cleared}
	case 1:
		return kvevents.Event{Kind: kvevents.Cleared, Domain: "worker"}
	case 2, 3, 4, 5, 6:
		return kvevents.Event{Kind: kvevents.Removed, Hashes: []uint64{hash}}
	}
	return store(hash, hash+1)
}

// publish publishes a burst, of which events are lost.
func (f *faults) publish(w *fakeWorker) {
	n := 1
	if f.rng.IntN(10) == 0 {
		n = f.rng.IntN(2 * fakeRing)
	}
	for range n {
		if ev := w.record(f.random()); f.rng.IntN(10) > 0 {
			f.events <- ev
		}
		if f.rng.IntN(20) == 0 {
			f.events <- w.record(f.random())
		}
	}
}

// answer is an querier whose answers are slow or missing until the faults end.
func (f *faults) answer(rng *rand.Rand) querier {
	return func(ctx context.Context, _ target, q kvevents.StateQuery) (kvevents.StateAnswer, error) {
		f.mu.Lock()
		fate, before, after := rng.IntN(8), rng.IntN(3000), rng.IntN(3000)
		f.mu.Unlock()
		select {
		case <-f.off:
			fate, before, after = 7, 1, 1
		default:
		}
		if err := wait.Sleep(ctx, time.Duration(before)*time.Millisecond); err != nil {
			return kvevents.StateAnswer{}, err
		}
		ans := f.worker(rankKey{q.Worker, q.Rank}).answer(q)
		switch fate {
		case 0:
			return kvevents.StateAnswer{}, errors.New("cut")
		case 1:
			ans = kvevents.StateAnswer{Kind: kvevents.AnswerError, Message: "no"}
		case 2:
			ans = kvevents.StateAnswer{Kind: kvevents.AnswerTreeDumpFailed}
		}
		return ans, wait.Sleep(ctx, time.Duration(after)*time.Millisecond)
	}
}
