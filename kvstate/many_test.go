package kvstate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"runtime"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/kvevents"
)

// manyWorkers is a plane without events, whose workers all have the same blocks.
type manyWorkers struct {
	members []discovery.Event
	dump    []byte // of worker 1<<40, as msgpack
	last    uint64
}

func newManyWorkers(tb testing.TB, workers, blocks uint64) *manyWorkers {
	tb.Helper()
	m := &manyWorkers{last: blocks}
	for i := range workers {
		w := newFakeWorker(1<<40+i, i+1)
		m.members = append(m.members, discovery.Event{Type: discovery.Added, Instance: w.source(tb, true)})
	}
	const run = 100 // blocks of an event
	var events []kvevents.Event
	for first := uint64(0); first < blocks; first += run {
		e := kvevents.Event{Kind: kvevents.Stored, Worker: 1 << 40, Rank: kvevents.Some(uint32(0)), Medium: "device"}
		for i := range min(run, blocks-first) {
			e.Hashes = append(e.Hashes, (first+i+1)<<32)
		}
		e.TokensHashes = e.Hashes
		events = append(events, e)
	}
	if m.dump = encodeEvents(events); m.dump == nil {
		tb.Fatal("the dump cannot be encoded")
	}
	return m
}

func (*manyWorkers) Ready(context.Context) error { return nil }

func (*manyWorkers) Next(ctx context.Context) (eventplane.Event, error) {
	<-ctx.Done()
	return eventplane.Event{}, ctx.Err()
}

func (m *manyWorkers) query(_ context.Context, _ target, q kvevents.StateQuery) (kvevents.StateAnswer, error) {
	from, to := binary.BigEndian.AppendUint64(nil, 1<<40), binary.BigEndian.AppendUint64(nil, q.Worker)
	return kvevents.StateAnswer{Kind: kvevents.AnswerTreeDump, Events: bytes.ReplaceAll(m.dump, from, to), LastID: m.last}, nil
}

func (m *manyWorkers) watch(ctx context.Context) iter.Seq2[discovery.Event, error] {
	return func(yield func(discovery.Event, error) bool) {
		for _, ev := range m.members {
			if !yield(ev, nil) {
				return
			}
		}
		<-ctx.Done()
	}
}

// start follows the workers until all are live, and returns how many blocks were
// reported, and the memory that the follower keeps for each worker.
func (m *manyWorkers) start(tb testing.TB) (blocks int, perWorker uint64) {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	defer cancel()
	before := heapBytes()
	live := 0
	f := newFollower(m, m.query, FollowOptions{}, func(u Update, _ error) bool {
		if u.Kind == Reset {
			for e := range u.Events {
				blocks += len(e.Hashes)
			}
		}
		if u.Kind == TrustChanged && u.Trust == Live {
			if live++; live == len(m.members) {
				cancel()
			}
		}
		return true
	})
	if err := f.run(ctx, m.watch); !errors.Is(err, context.Canceled) {
		tb.Fatal(err)
	}
	after := heapBytes()
	runtime.KeepAlive(f)
	return blocks, (after - min(before, after)) / uint64(len(m.members))
}

func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestManyWorkers(t *testing.T) {
	const workers, blocks = 10000, 10
	got, bytes := newManyWorkers(t, workers, blocks).start(t)
	if got != workers*blocks {
		t.Errorf("%d blocks, want %d", got, workers*blocks)
	}
	if bytes > 4096 {
		t.Errorf("%d bytes for each worker, want at most 4,096", bytes)
	}
}

// BenchmarkStart begins to follow 10,000 workers of 10,000 blocks each.
func BenchmarkStart(b *testing.B) {
	const workers, blocks = 10000, 10000
	m := newManyWorkers(b, workers, blocks)
	for b.Loop() {
		start := time.Now()
		got, bytes := m.start(b)
		if got != workers*blocks {
			b.Fatalf("%d blocks, want %d", got, workers*blocks)
		}
		b.ReportMetric(float64(got)/time.Since(start).Seconds(), "blocks/s")
		b.ReportMetric(float64(bytes), "B/worker")
	}
}
