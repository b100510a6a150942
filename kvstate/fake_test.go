package kvstate

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/wait"
	"github.com/dynplane/dynplane/kvevents"
)

var testScope = discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}

type blockSet = map[uint64]bool

// fakeWorker is a rank of a worker whose blocks have no parents. Its ring is small.
type fakeWorker struct {
	mu        sync.Mutex
	key       rankKey
	publisher uint64
	ring      []kvevents.Event
	last      uint64
	blocks    blockSet
	history   []blockSet // by the id of the last event
	oldDump   []kvevents.Event
	oldLast   uint64
}

const fakeRing = 16

func newFakeWorker(worker, publisher uint64) *fakeWorker {
	return &fakeWorker{key: rankKey{worker, 0}, publisher: publisher, blocks: blockSet{}, history: []blockSet{{}}}
}

// record numbers an event and applies it, and returns it as it is published.
func (w *fakeWorker) record(e kvevents.Event) eventplane.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last++
	e.ID, e.Worker, e.Rank, e.Medium = w.last, w.key.worker, kvevents.Some(w.key.rank), "device"
	e.TokensHashes = e.Hashes
	w.ring = append(w.ring, e)
	if len(w.ring) > fakeRing {
		w.ring = w.ring[1:]
	}
	w.blocks = maps.Clone(w.blocks)
	applyTo(w.blocks, &e)
	w.history = append(w.history, w.blocks)
	return eventplane.Event{Envelope: codec.Envelope{PublisherID: w.publisher, Payload: encodeEvents([]kvevents.Event{e})}}
}

func applyTo(blocks blockSet, e *kvevents.Event) {
	switch e.Kind {
	case kvevents.Stored:
		for _, h := range e.Hashes {
			blocks[h] = true
		}
	case kvevents.Removed:
		for _, h := range e.Hashes {
			delete(blocks, h)
		}
	case kvevents.Cleared:
		clear(blocks)
	case kvevents.Unknown:
	}
}

// answer answers as Dynamo's workers do: with the events, or with a dump that may be
// older and is followed by the events after it.
func (w *fakeWorker) answer(q kvevents.StateQuery) kvevents.StateAnswer {
	w.mu.Lock()
	defer w.mu.Unlock()
	ans := kvevents.StateAnswer{Kind: kvevents.AnswerEvents, LastID: w.last}
	if q.Start.Present && len(w.ring) > 0 && q.Start.Value > w.last {
		return kvevents.StateAnswer{Kind: kvevents.AnswerTooNew, Start: q.Start, Newest: w.last}
	}
	if q.Start.Present && len(w.ring) > 0 && q.Start.Value >= w.ring[0].ID {
		ans.Events = encodeEvents(w.ring[q.Start.Value-w.ring[0].ID:])
		return ans
	}
	ans.Kind = kvevents.AnswerTreeDump
	if w.oldDump == nil || w.last-w.oldLast >= fakeRing/2 {
		w.oldDump, w.oldLast = []kvevents.Event{}, w.last
		for _, h := range slices.Sorted(maps.Keys(w.blocks)) {
			w.oldDump = append(w.oldDump, kvevents.Event{Kind: kvevents.Stored, Worker: w.key.worker, Rank: kvevents.Some(w.key.rank),
				Medium: "device", Hashes: []uint64{h}, TokensHashes: []uint64{h}})
		}
	}
	events := slices.Clone(w.oldDump)
	for _, e := range w.ring {
		if e.ID > w.oldLast {
			events = append(events, e)
		}
	}
	ans.Events = encodeEvents(events)
	return ans
}

// encodeEvents returns nil for events that cannot be encoded, which no test accepts.
func encodeEvents(events []kvevents.Event) []byte {
	b, _ := kvevents.AppendRouterEvents(nil, events)
	return b
}

// source is the registration of w.
func (w *fakeWorker) source(t testing.TB, targeted bool) discovery.Instance {
	t.Helper()
	kv := discovery.KVSource{Endpoint: testScope, WorkerID: w.key.worker, Rank: w.key.rank, PublisherID: w.publisher}
	if targeted {
		kv.RecoveryTarget = json.RawMessage(`{"transport":{"tcp":"127.0.0.1:9/x"},"request_plane_codec":"msgpack"}`)
	}
	data, err := json.Marshal(kv)
	if err != nil {
		t.Fatal(err)
	}
	return discovery.Instance{InstanceID: w.publisher, Spec: discovery.EventSource{Scope: testScope, Topic: topicKVEvents, Metadata: data}}
}

// fakePlane is a stream of events and a watch of sources.
type fakePlane struct {
	events  chan eventplane.Event
	members chan discovery.Event
	query   querier
}

func newFakePlane() *fakePlane {
	return &fakePlane{events: make(chan eventplane.Event, 1<<20), members: make(chan discovery.Event, 64)}
}

func (p *fakePlane) Next(ctx context.Context) (eventplane.Event, error) {
	if err := ctx.Err(); err != nil {
		return eventplane.Event{}, err
	}
	select {
	case ev := <-p.events:
		return ev, nil
	case <-ctx.Done():
		return eventplane.Event{}, ctx.Err()
	}
}

func (p *fakePlane) Ready(ctx context.Context) error { return wait.Sleep(ctx, time.Millisecond) }

func (p *fakePlane) watch(ctx context.Context) iter.Seq2[discovery.Event, error] {
	return func(yield func(discovery.Event, error) bool) {
		for {
			select {
			case ev := <-p.members:
				if !yield(ev, nil) {
					return
				}
			case <-ctx.Done():
				yield(discovery.Event{}, ctx.Err())
				return
			}
		}
	}
}

func (p *fakePlane) register(in discovery.Instance) {
	p.members <- discovery.Event{Type: discovery.Added, Instance: in}
}

func (p *fakePlane) unregister(in discovery.Instance) {
	p.members <- discovery.Event{Type: discovery.Removed, Instance: in}
}

// fakeView applies the updates of a follower.
type fakeView struct {
	*follower
	mu      sync.Mutex
	blocks  map[rankKey]blockSet
	updates []Update
	onApply func(r *rankState, blocks blockSet)
}

// follow runs a follower of p in the background until the test ends.
func (p *fakePlane) follow(t *testing.T, o FollowOptions) *fakeView {
	t.Helper()
	v := &fakeView{blocks: map[rankKey]blockSet{}}
	v.follower = newFollower(p, p.query, o, v.apply)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.run(ctx, p.watch) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want that of the context", err)
		}
	})
	return v
}

func (v *fakeView) apply(u Update, _ error) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := rankKey{u.Worker, u.Rank}
	if len(v.updates) < 1000 {
		v.updates = append(v.updates, u)
	}
	switch u.Kind {
	case Gone:
		delete(v.blocks, key)
	case Reset, Change:
		if u.Kind == Reset {
			v.blocks[key] = blockSet{}
		}
		for e := range u.Events {
			applyTo(v.blocks[key], e)
		}
		if v.onApply != nil {
			v.onApply(v.ranks[key], v.blocks[key])
		}
	case TrustChanged, Synced:
	}
	return true
}

// of returns the blocks of a rank.
func (v *fakeView) of(key rankKey) blockSet {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.blocks[key])
}

// kinds returns the kinds of the updates so far, and forgets them.
func (v *fakeView) kinds() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []string
	for _, u := range v.updates {
		name := u.Kind.String()
		if u.Kind == TrustChanged {
			name = u.Trust.String()
		}
		all = append(all, name)
	}
	v.updates = nil
	return all
}

func store(hashes ...uint64) kvevents.Event {
	return kvevents.Event{Kind: kvevents.Stored, Hashes: hashes}
}
