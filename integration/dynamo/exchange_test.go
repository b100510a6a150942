package dynamo

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestExchange has, for each store and transport, a real worker publish and ours
// receive, then ours publish and a real subscriber receive.
func TestExchange(t *testing.T) {
	t.Parallel()
	for _, version := range []string{dynamotest.Gen2, dynamotest.Gen1} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			for _, store := range []string{"file", "etcd", "bucket"} {
				t.Run(store, func(t *testing.T) {
					t.Parallel()
					for _, transport := range []string{"direct", "broker by URL", "broker by discovery", "two brokers", "NATS"} {
						t.Run(transport, func(t *testing.T) {
							t.Parallel()
							p := newPlace(t, version, store, transport)
							t.Run("theirs", func(t *testing.T) { p.receive(t) })
							t.Run("ours", func(t *testing.T) { p.publish(t) })
						})
					}
				})
			}
		})
	}
}

// receive has a worker publish on all of its topics.
func (p *place) receive(t *testing.T) {
	store, plane := p.openOurs(t)
	worker := p.start(t, "worker.py")
	id := worker.Await("ready", 1).WorkerID
	p.checkRegistrations(t, store, id)

	in := make(map[string]*inbox)
	for topic, scope := range scopes(p.version) {
		in[topic] = subscribe(t, plane, scope, topic)
	}
	p.connect(t, worker, in)
	total := worker.Ask(map[string]any{"publish": 50}, "sent").Total
	waittest.Eventually(t, "all events arrive", func() bool { return p.last(t, in, total) })
	publishers := make(map[string]uint64)
	for topic := range in {
		publishers[topic] = in[topic].whole(t, topic)
	}
	p.checkBlocks(t, in[kvEvents], id, total)
	p.checkMetrics(t, in, id, total)
	p.checkPublishers(t, store, publishers, id)
}

// blockHash is the hash of the n-th block that worker.py stores.
func blockHash(n int) uint64 { return uint64(1000 + n) }

// checkRegistrations waits for the registrations of a worker.
func (p *place) checkRegistrations(t *testing.T, store *discovery.Client, worker uint64) {
	t.Helper()
	for _, kind := range []discovery.Kind{discovery.KindEndpoint, discovery.KindModel} {
		waittest.Eventually(t, kind.String()+" is registered", func() bool {
			return slices.ContainsFunc(list(t, store, discovery.Query{Kind: kind, Scope: generate}),
				func(in discovery.Instance) bool { return in.InstanceID == worker })
		})
	}
	if p.registersChannels() {
		awaitChannels(t, store, len(scopes(p.version)))
	}
}

// registersChannels reports whether the runtime registers its publishers: it does
// not with brokers.
func (p *place) registersChannels() bool { return p.transport == "direct" || p.transport == "NATS" }

// hasSources reports whether the runtime registers the source of its events.
func (p *place) hasSources() bool { return p.version != dynamotest.Gen1 }

// checkPublishers compares the publishers whose events were received with those
// that are registered.
func (p *place) checkPublishers(t *testing.T, store *discovery.Client, publishers map[string]uint64, worker uint64) {
	t.Helper()
	if p.registersChannels() {
		registered := make(map[string]uint64)
		waittest.Eventually(t, "all publishers are registered", func() bool {
			for _, in := range list(t, store, discovery.Query{Kind: discovery.KindEventChannel}) {
				topic := in.ID().Topic
				registered[topic] = in.InstanceID
				if scope := in.ID().Scope; scope != scopes(p.version)[topic] {
					t.Errorf("%s is registered in %v", topic, scope)
				}
			}
			return len(registered) >= len(publishers)
		})
		if !maps.Equal(registered, publishers) {
			t.Errorf("events of %v, registered %v", publishers, registered)
		}
	}
	if !p.hasSources() {
		return
	}
	var metadata struct {
		Worker struct {
			ID uint64 `json:"worker_id"`
		} `json:"worker"`
		PublisherID uint64 `json:"publisher_id"`
	}
	var sources []discovery.Instance
	waittest.Eventually(t, "the source is registered", func() bool {
		sources = list(t, store, discovery.Query{Kind: discovery.KindEventSource})
		return len(sources) > 0
	})
	if len(sources) != 1 || sources[0].InstanceID != publishers[kvEvents] {
		t.Fatalf("sources %v, want one of %d", sources, publishers[kvEvents])
	}
	if err := json.Unmarshal(sources[0].Spec.(discovery.EventSource).Metadata, &metadata); err != nil {
		t.Fatal(err)
	}
	if metadata.Worker.ID != worker || metadata.PublisherID != publishers[kvEvents] {
		t.Errorf("source of %+v, want worker %d and publisher %d", metadata, worker, publishers[kvEvents])
	}
}

// checkBlocks compares the events on kv-events with what worker.py published:
// block after block, up to the n-th.
func (p *place) checkBlocks(t *testing.T, in *inbox, worker uint64, n int) {
	t.Helper()
	events := in.all()
	first := routerEvents(t, p.version, events[0])[0].Event.EventID
	if p.transport == "direct" && events[0].Sequence == 0 && first != 1 {
		t.Errorf("sequence 0 has event %d", first)
	}
	next := first
	for _, ev := range events {
		for _, got := range routerEvents(t, p.version, ev) {
			want := routerEvent{WorkerID: worker, StorageTier: got.StorageTier}
			want.Event.EventID = next
			k := int(next) - 1
			if k > 0 {
				parent := blockHash(k - 1)
				want.Event.Data.Stored.ParentHash = &parent
			}
			want.Event.Data.Stored.Blocks = []block{{BlockHash: blockHash(k)}}
			if blocks := got.Event.Data.Stored.Blocks; len(blocks) == 1 {
				want.Event.Data.Stored.Blocks[0].TokensHash = blocks[0].TokensHash
			}
			wantJSON, _ := json.Marshal(want)
			if gotJSON, _ := json.Marshal(got); !bytes.Equal(gotJSON, wantJSON) {
				t.Fatalf("got %s, want %s", gotJSON, wantJSON)
			}
			next++
		}
	}
	if int(next)-1 != n {
		t.Errorf("events up to %d, want %d", next-1, n)
	}
	t.Logf("worker %d: events %d to %d, sequences from %d", worker, first, n, events[0].Sequence)
}

// checkMetrics does the same for the other two topics. A worker publishes a
// forward pass of zeros when it is idle, and of several loads the last.
func (p *place) checkMetrics(t *testing.T, in map[string]*inbox, worker uint64, n int) {
	t.Helper()
	last := -1
	for _, ev := range in[load].all() {
		got := decode[activeLoad](t, ev)
		if got.WorkerID != worker || got.DecodeBlocks == nil || *got.DecodeBlocks <= last {
			t.Fatalf("load %+v after %d blocks", got, last)
		}
		last = *got.DecodeBlocks
	}
	next := 0
	for _, ev := range in[fpm].all() {
		got := decode[forwardPass](t, ev)
		if prefills := got.Scheduled.Prefills; prefills > 0 {
			if next > 0 && prefills != next || got.WorkerID != "w0" {
				t.Fatalf("forward pass %+v, want %d prefills", got, next)
			}
			next = prefills + 1
		}
	}
	if last != n-1 || next != n+1 {
		t.Errorf("loads up to %d, forward passes up to %d, want %d", last+1, next-1, n)
	}
}

// publish has ours publish what no worker sends, and a real subscriber receive it.
func (p *place) publish(t *testing.T) {
	store, plane := p.openOurs(t)
	const id = 1<<63 + 1<<53 + 1 // no float has it
	endpoint := discovery.Endpoint{Scope: generate, Transport: discovery.TCP("127.0.0.1:9/8020000000000001/generate")}
	register(t, store, id, endpoint)
	subscriber := p.start(t, "subscriber.py")
	waittest.Eventually(t, "the runtime finds our endpoint", func() bool {
		return slices.Contains(subscriber.Ask(map[string]any{}, "instances").Instances, id)
	})
	pub := publisher(t, plane, scopes(p.version)[fpm], fpm, eventplane.PublisherOptions{})
	type event struct {
		N    int    `json:"n"`
		Blob []byte `json:"blob"`
	}
	eventOf := func(n int) event { return event{n, bytes.Repeat([]byte{0, 0xff, byte(n)}, n*20)} }
	payload := func(n int) string {
		data, err := codec.Msgpack.Append(nil, eventOf(n))
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(data)
	}
	send := func(n int) {
		t.Helper()
		if err := pub.Publish(t.Context(), eventOf(n)); err != nil {
			t.Fatal(err)
		}
	}
	// The runtime connects in the background.
	const events = 50
	probes := time.NewTicker(20 * time.Millisecond)
	defer probes.Stop()
	waittest.Eventually(t, "the subscriber receives", func() bool {
		<-probes.C
		send(0)
		return len(subscriber.Lines("event")) > 0
	})
	for n := range events {
		send(n + 1)
	}
	var got []string
	waittest.Eventually(t, "the subscriber receives all events", func() bool {
		got = nil
		for _, line := range subscriber.Lines("event") {
			if line.Payload != payload(0) {
				got = append(got, line.Payload)
			}
		}
		return len(got) >= events
	})
	if len(p.brokers) > 1 {
		slices.SortFunc(got, func(a, b string) int { return len(a) - len(b) }) // the runtime does not restore the order
	}
	for i := range got {
		if want := payload(i + 1); got[i] != want {
			t.Fatalf("event %d of %d: received %.100s, want %.100s", i, len(got), got[i], want)
		}
	}
}
