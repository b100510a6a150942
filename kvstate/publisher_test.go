package kvstate_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/kvevents"
	"github.com/dynplane/dynplane/kvstate"
	"github.com/dynplane/dynplane/natsconn"
	"github.com/dynplane/dynplane/requestplane"
)

var generate = discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}

// stored returns an event that stores blocks under a parent, which is no parent if it
// is 0.
func stored(parent uint64, hashes ...uint64) kvevents.Event {
	return kvevents.Event{Kind: kvevents.Stored, Medium: "device", Parent: kvevents.Optional[uint64]{Value: parent, Present: parent != 0}, Hashes: hashes, TokensHashes: hashes}
}

// cluster is one store and one transport.
type cluster struct {
	registry *memory.Registry
	config   eventplane.Config
}

func newCluster(t *testing.T, wire discovery.WireFormat, c codec.Codec) *cluster {
	t.Helper()
	return &cluster{memory.New(), eventplane.Config{Wire: wire, Codec: c, NATS: natsconn.Config{URL: natstest.Run(t).URL()}}}
}

func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
	t.Cleanup(cancel)
	return ctx
}

// open returns clients, which are shut down at the end of the test.
func (c *cluster) open(t *testing.T) (*discovery.Client, *eventplane.Client) {
	t.Helper()
	d := discovery.NewClient(c.registry.Open(), discovery.Options{})
	plane, err := eventplane.New(c.config, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(plane.Shutdown(patient(t)), d.Shutdown(patient(t))); err != nil {
			t.Error(err)
		}
	})
	return d, plane
}

func (c *cluster) worker(t *testing.T, o kvstate.PublisherOptions) *kvstate.Publisher {
	t.Helper()
	d, plane := c.open(t)
	o.ServerOptions.Listen = "127.0.0.1:0"
	p, err := kvstate.NewPublisher(patient(t), plane, d, generate, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Shutdown(patient(t)); err != nil {
			t.Error(err)
		}
	})
	return p
}

// paths returns the paths of all registrations.
func (c *cluster) paths(t *testing.T, d *discovery.Client) (paths []string) {
	t.Helper()
	all, err := d.List(patient(t), discovery.Query{Kind: discovery.KindAny})
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range all {
		paths = append(paths, fmt.Sprint(in.Spec.ID(0).Kind, " ", in.ID().Path()))
	}
	slices.Sort(paths)
	return paths
}

// router is a client that queries the state of workers.
type router struct {
	t      *testing.T
	client *requestplane.Client
	codec  codec.Codec
	to     requestplane.Address
	query  kvevents.StateQuery
}

// newRouter returns a router with the address that a publisher has registered.
func newRouter(t *testing.T, d *discovery.Client, p *kvstate.Publisher, q kvevents.StateQuery) *router {
	t.Helper()
	client, err := requestplane.NewClient(requestplane.ClientOptions{Listen: "127.0.0.1:0", AckTimeout: waittest.Patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return &router{t, client, codec.Msgpack, target(t, d, p, q), q}
}

// target returns the address of the queries to a publisher.
func target(t *testing.T, d *discovery.Client, p *kvstate.Publisher, q kvevents.StateQuery) requestplane.Address {
	t.Helper()
	in, err := d.Get(patient(t), discovery.EventSource{Scope: generate, Topic: "kv-events"}.ID(p.ID()))
	if err != nil {
		t.Fatal(err)
	}
	var source discovery.KVSource
	if err := json.Unmarshal(in.Spec.(discovery.EventSource).Metadata, &source); err != nil {
		t.Fatal(err)
	}
	if source.Endpoint != generate || source.WorkerID != q.Worker || source.Rank != q.Rank || source.PublisherID != p.ID() {
		t.Errorf("source %+v", source)
	}
	name := fmt.Sprintf("worker_kv_query_source_%x", p.ID())
	host := p.Server().Address("").Host
	want := fmt.Sprintf(`{"namespace":"dynamo","component":"backend","endpoint":%q,"instance_id":%d,"transport":{"tcp":"%s/%x/dynamo/backend/%s"},"request_plane_codec":"msgpack"}`,
		name, q.Worker, host, q.Worker, name)
	if string(source.RecoveryTarget) != want {
		t.Errorf("target %s, want %s", source.RecoveryTarget, want)
	}
	path := requestplane.Endpoint{Instance: q.Worker, Namespace: "dynamo", Component: "backend", Name: name}.Path()
	return requestplane.Address{Host: host, Path: path}
}

// answer queries all that is from start on, or everything.
func (r *router) answer(start ...uint64) (a kvevents.StateAnswer) {
	r.t.Helper()
	q := r.query
	for _, s := range start {
		q.Start = kvevents.Some(s)
	}
	request, err := r.codec.Append(nil, q)
	if err != nil {
		r.t.Fatal(err)
	}
	items := 0
	for item, err := range r.client.Call(r.t.Context(), r.to, request, requestplane.CallOptions{Codec: requestplane.Codec(r.codec.Name()), Idle: waittest.Patience}) {
		if err != nil {
			r.t.Fatal(err)
		}
		if err := a.UnmarshalMsgpack(item); err != nil {
			r.t.Fatal(err)
		}
		items++
	}
	if items != 1 {
		r.t.Errorf("%d items, want one", items)
	}
	return a
}

// want checks an answer.
func (r *router) want(a kvevents.StateAnswer, kind kvevents.AnswerKind, blocks int, last uint64) {
	r.t.Helper()
	var tree kvstate.Tree
	d := kvevents.Decoder{MaxBytes: len(a.Events) + 1}
	if _, err := d.Router(a.Events); err != nil && len(a.Events) > 0 {
		r.t.Fatal(err)
	}
	for e := range d.Events() {
		if e.Worker != r.query.Worker || e.Rank.Value != r.query.Rank {
			r.t.Errorf("event %+v of another worker", e)
		}
		tree.Apply(e)
	}
	if a.Kind != kind || tree.Len() != blocks || a.LastID != last {
		r.t.Errorf("%v with %d blocks up to %d (%s), want %v with %d up to %d", a.Kind, tree.Len(), a.LastID, a.Message, kind, blocks, last)
	}
}

// A publisher answers the queries of a router, in both codecs.
func TestPublisherAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []codec.Codec{codec.Msgpack, codec.JSON} {
		t.Run(c.Name(), func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, discovery.WireGen2, c)
			d, _ := cl.open(t)
			p := cl.worker(t, kvstate.PublisherOptions{Worker: 1<<63 + 42})
			r := newRouter(t, d, p, kvevents.StateQuery{Worker: 1<<63 + 42})
			r.codec = c
			r.want(r.answer(), kvevents.AnswerTreeDump, 0, 0)
			for i := range uint64(50) {
				if err := p.Publish(t.Context(), stored(i, i+1)); err != nil {
					t.Fatal(err)
				}
			}
			r.want(r.answer(), kvevents.AnswerTreeDump, 50, 50)
			r.want(r.answer(0), kvevents.AnswerTreeDump, 50, 50)
			r.want(r.answer(1), kvevents.AnswerEvents, 50, 50)
			r.want(r.answer(40), kvevents.AnswerEvents, 11, 50)
			r.want(r.answer(51), kvevents.AnswerTooNew, 0, 0)
			r.query.Rank = 1
			r.want(r.answer(), kvevents.AnswerError, 0, 0)
			if got, want := p.Stats(), (kvstate.PublisherStats{LastID: 50, Blocks: 50, Queries: 7, Dumps: 1}); got != want {
				t.Errorf("counted %+v, want %+v", got, want)
			}
		})
	}
}

// The live events have the ids 1, 2 and so on, and what the publisher sets.
func TestPublisherSends(t *testing.T) {
	t.Parallel()
	for _, c := range []codec.Codec{codec.Msgpack, codec.JSON} {
		for _, wire := range []discovery.WireFormat{discovery.WireGen2, discovery.WireGen1} {
			t.Run(fmt.Sprint(c.Name(), "/", wire), func(t *testing.T) {
				t.Parallel()
				cl := newCluster(t, wire, c)
				_, plane := cl.open(t)
				scope, domain := generate, "worker"
				if wire == discovery.WireGen1 {
					scope.Endpoint, domain = "", ""
				}
				sub, err := plane.Subscriber(patient(t), scope, "kv-events")
				if err != nil {
					t.Fatal(err)
				}
				if err := sub.Ready(patient(t)); err != nil {
					t.Fatal(err)
				}
				p := cl.worker(t, kvstate.PublisherOptions{Worker: 42, Rank: 3})
				events := make([]kvevents.Event, 300)
				for i := range events {
					events[i] = stored(uint64(i), uint64(i)+1)
				}
				if err := p.Publish(t.Context(), events...); err != nil {
					t.Fatal(err)
				}
				removed := kvevents.Event{Kind: kvevents.Removed, Medium: "disk", Hashes: make([]uint64, 10_000)}
				if err := p.Publish(t.Context(), removed, kvevents.Event{Kind: kvevents.Cleared}); err != nil {
					t.Fatal(err)
				}
				var sizes []int
				next := uint64(1)
				for ev, err := range eventplane.Events[kvevents.RouterEvents](patient(t), sub) {
					if err != nil {
						t.Fatal(err)
					}
					sizes = append(sizes, len(ev.Value))
					for _, e := range ev.Value {
						if e.ID != next || e.Worker != 42 || e.Rank != kvevents.Some(uint32(3)) || e.Domain != domain {
							t.Fatalf("event %+v, want the id %d", e, next)
						}
						next++
					}
					if next > 303 {
						break
					}
				}
				want := []int{128, 128, 44, 1, 2}
				if wire == discovery.WireGen1 {
					want = slices.Repeat([]int{1}, 303)
				}
				if !slices.Equal(sizes, want) {
					t.Errorf("events in the messages: %v, want %v", sizes, want)
				}
			})
		}
	}
}

// Everything is registered while the publisher is open, and nothing after it.
func TestPublisherRegisters(t *testing.T) {
	t.Parallel()
	for wire, want := range map[discovery.WireFormat][]string{
		discovery.WireGen2: {
			"Endpoint dynamo/backend/generate/2a",
			"EventChannel namespace/dynamo/component/backend/endpoint/generate/topic/kv-events/P",
			"EventSource namespace/dynamo/component/backend/endpoint/generate/topic/kv-events/P",
			"Model dynamo/backend/generate/2a",
		},
		discovery.WireGen1: {
			"Endpoint dynamo/backend/generate/2a", "Endpoint dynamo/backend/worker_kv_indexer_query_dp0/2a",
			"EventChannel dynamo/backend/kv-events/P", "Model dynamo/backend/generate/2a",
		},
	} {
		t.Run(wire.String(), func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, wire, codec.Msgpack)
			d, _ := cl.open(t)
			p := cl.worker(t, kvstate.PublisherOptions{Worker: 42, Card: discovery.NewTensorCard("model")})
			got := cl.paths(t, d)
			for i := range got {
				got[i] = strings.Replace(got[i], fmt.Sprintf("/%x", p.ID()), "/P", 1)
			}
			if !slices.Equal(got, want) {
				t.Errorf("registered %q, want %q", got, want)
			}
			for range 2 {
				if err := p.Shutdown(patient(t)); err != nil {
					t.Error(err)
				}
			}
			if left := cl.paths(t, d); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if err := p.Publish(t.Context(), stored(0, 1)); !errors.Is(err, eventplane.ErrClosed) {
				t.Errorf("error %v after the shutdown", err)
			}
		})
	}
}

// A router of the older generation finds the endpoint by its name, and decodes JSON.
func TestPublisherOfTheOlderGeneration(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, discovery.WireGen1, codec.Msgpack)
	d, _ := cl.open(t)
	p := cl.worker(t, kvstate.PublisherOptions{Worker: 0xabc, Rank: 2})
	if err := p.Publish(t.Context(), stored(0, 1, 2)); err != nil {
		t.Fatal(err)
	}
	scope := generate
	scope.Endpoint = "worker_kv_indexer_query_dp2"
	in, err := d.Get(patient(t), discovery.Endpoint{Scope: scope}.ID(0xabc))
	if err != nil {
		t.Fatal(err)
	}
	to, err := requestplane.ParseAddress(in.Spec.(discovery.Endpoint).Transport.Address)
	if err != nil || to.Path != "abc/worker_kv_indexer_query_dp2" {
		t.Fatalf("address %v, error %v", to, err)
	}
	client, err := requestplane.NewClient(requestplane.ClientOptions{Listen: "127.0.0.1:0", AckTimeout: waittest.Patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	r := &router{t, client, codec.JSON, to, kvevents.StateQuery{Worker: 0xabc, Rank: 2}}
	r.want(r.answer(), kvevents.AnswerTreeDump, 2, 1)
}

// The ranks of a worker have ids and states of their own, on one port.
func TestRanksShareAServer(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, discovery.WireGen2, codec.Msgpack)
	d, _ := cl.open(t)
	server, err := requestplane.NewServer(requestplane.ServerOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	var routers []*router
	for rank := range uint32(3) {
		p := cl.worker(t, kvstate.PublisherOptions{Worker: 42, Rank: rank, Server: server})
		for i := range uint64(rank) {
			if err := p.Publish(t.Context(), stored(i, i+1)); err != nil {
				t.Fatal(err)
			}
		}
		routers = append(routers, newRouter(t, d, p, kvevents.StateQuery{Worker: 42, Rank: rank}))
		defer func() {
			if err := p.Shutdown(patient(t)); err != nil {
				t.Error(err)
			}
			if _, err := server.Handle(routers[rank].to.Path, nil); err != nil {
				t.Errorf("the path is still served: %v", err)
			}
		}()
	}
	for rank, r := range routers {
		r.want(r.answer(), kvevents.AnswerTreeDump, rank, uint64(rank))
	}
}

// An event that cannot be encoded uses no id, and neither do those of the same call.
func TestInvalidEvents(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, discovery.WireGen2, codec.Msgpack)
	p := cl.worker(t, kvstate.PublisherOptions{Worker: 42})
	invalid := stored(0, 1)
	invalid.TokensHashes = nil
	if err := p.Publish(t.Context(), stored(0, 1), invalid); err == nil || !strings.Contains(err.Error(), "event 2 of 2") {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Publish(ctx, stored(0, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if got := p.Stats(); got.LastID != 0 || got.Blocks != 0 {
		t.Errorf("counted %+v", got)
	}
}

// Nothing is left of a publisher that cannot be opened.
func TestPublisherFails(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, discovery.WireGen2, codec.Msgpack)
	d, plane := cl.open(t)
	closed, err := requestplane.NewServer(requestplane.ServerOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	own := requestplane.ServerOptions{Listen: "127.0.0.1:0"}
	for name, try := range map[string]func() (*kvstate.Publisher, error){
		"scope": func() (*kvstate.Publisher, error) {
			return kvstate.NewPublisher(patient(t), plane, d, discovery.Scope{Namespace: "dynamo", Component: "backend"}, kvstate.PublisherOptions{ServerOptions: own})
		},
		"card": func() (*kvstate.Publisher, error) {
			return kvstate.NewPublisher(patient(t), plane, d, generate, kvstate.PublisherOptions{ServerOptions: own, Card: make(chan int)})
		},
		"server": func() (*kvstate.Publisher, error) {
			return kvstate.NewPublisher(patient(t), plane, d, generate, kvstate.PublisherOptions{Server: closed})
		},
		"address": func() (*kvstate.Publisher, error) {
			return kvstate.NewPublisher(patient(t), plane, d, generate, kvstate.PublisherOptions{ServerOptions: requestplane.ServerOptions{Listen: "nowhere"}})
		},
	} {
		if p, err := try(); err == nil || p != nil || !strings.HasPrefix(err.Error(), "kvstate: publisher of rank 0 in dynamo/backend") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if left := cl.paths(t, d); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Concurrent publishers, queries and a shutdown.
func TestPublisherConcurrently(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, discovery.WireGen2, codec.Msgpack)
	d, _ := cl.open(t)
	p := cl.worker(t, kvstate.PublisherOptions{Worker: 42})
	r := newRouter(t, d, p, kvevents.StateQuery{Worker: 42})
	var running sync.WaitGroup
	const publishers, each = 4, 200
	for n := range uint64(publishers) {
		running.Go(func() {
			for i := range uint64(each) {
				if err := p.Publish(t.Context(), stored(0, n*each+i+1)); err != nil {
					t.Error(err)
				}
			}
		})
		running.Go(func() {
			for range 20 {
				// Each event stores a block, so that the state is known from the id.
				a := r.answer()
				r.want(a, kvevents.AnswerTreeDump, int(a.LastID), a.LastID)
			}
		})
	}
	running.Wait()
	r.want(r.answer(), kvevents.AnswerTreeDump, publishers*each, publishers*each)
	for range 4 {
		running.Go(func() {
			if err := p.Shutdown(patient(t)); err != nil {
				t.Error(err)
			}
		})
		running.Go(func() {
			for range 10 {
				if err := p.Publish(t.Context(), stored(0, 1)); err != nil && !errors.Is(err, eventplane.ErrClosed) {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
}
