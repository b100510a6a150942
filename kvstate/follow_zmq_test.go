//go:build cgo && !nozmq

package kvstate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/kvevents"
	"github.com/dynplane/dynplane/requestplane"
)

// realWorker publishes over ZMQ and answers queries over TCP.
type realWorker struct {
	*fakeWorker
	t   *testing.T
	pub *eventplane.Publisher
}

func newClients(t *testing.T, registry *memory.Registry) Clients {
	t.Helper()
	return newClientsOf(t, registry, eventplane.WireGen2)
}

func newClientsOf(t *testing.T, registry *memory.Registry, wire eventplane.WireFormat) Clients {
	t.Helper()
	d := discovery.NewClient(registry.Open(), discovery.Options{})
	t.Cleanup(func() { _ = d.Shutdown(context.Background()) })
	plane, err := eventplane.New(eventplane.Config{Transport: discovery.TransportZMQ, Host: "127.0.0.1", Wire: wire}, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plane.Shutdown(context.Background()) })
	client, err := requestplane.NewClient(requestplane.ClientOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return Clients{d, plane, client}
}

func startReal(t *testing.T, c Clients, server *requestplane.Server, id uint64) *realWorker {
	t.Helper()
	w := &realWorker{fakeWorker: newFakeWorker(id, 0), t: t}
	for i := range id {
		w.record(store(1000*id + i))
	}
	path := fmt.Sprintf("%x/query", id)
	_, err := server.Handle(path, func(_ context.Context, r *requestplane.Request, send func([]byte) error) error {
		var q kvevents.StateQuery
		if err := q.UnmarshalMsgpack(r.Payload); err != nil {
			return err
		}
		ans := w.answer(q)
		encode := ans.MarshalJSON
		if r.Codec == requestplane.Msgpack {
			encode = ans.MarshalMsgpack
		}
		item, err := encode()
		if err != nil {
			return err
		}
		return send(item)
	})
	if err != nil {
		t.Fatal(err)
	}
	codecs := []requestplane.Codec{requestplane.JSON, requestplane.Msgpack}
	w.pub, err = c.Events.PublisherWithOptions(t.Context(), testScope, topicKVEvents, eventplane.PublisherOptions{
		Source: func(publisher uint64) any {
			w.publisher = publisher
			target := fmt.Sprintf(`{"transport":{"tcp":%q},"request_plane_codec":%q}`, server.Address(path), codecs[id%2])
			return discovery.KVSource{Endpoint: testScope, WorkerID: id, PublisherID: publisher, RecoveryTarget: json.RawMessage(target)}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *realWorker) publish(e kvevents.Event) {
	w.t.Helper()
	if err := w.pub.PublishBytes(w.t.Context(), w.record(e).Payload); err != nil {
		w.t.Error(err)
	}
}

// TestFollowOverSockets follows workers of which some are there before it.
func TestFollowOverSockets(t *testing.T) {
	registry := memory.New()
	server, err := requestplane.NewServer(requestplane.ServerOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	theirs, ours := newClients(t, registry), newClients(t, registry)
	workers := map[rankKey]*realWorker{}
	add := func(id uint64) *realWorker {
		w := startReal(t, theirs, server, id)
		workers[w.key] = w
		return w
	}
	first := add(1)
	add(20)
	view := map[rankKey]blockSet{}
	live := map[rankKey]bool{}
	const later, blocks = 3, 300
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	published := false
	for u, err := range Follow(ctx, ours, testScope, FollowOptions{}) {
		if err != nil {
			t.Fatalf("%v; live %v, view %v", err, live, view)
		}
		key := rankKey{u.Worker, u.Rank}
		switch u.Kind {
		case Reset, Change:
			if u.Kind == Reset {
				view[key] = blockSet{}
			}
			for e := range u.Events {
				applyTo(view[key], e)
			}
		case TrustChanged:
			live[key] = u.Trust == Live
		case Gone:
			delete(view, key)
			delete(live, key)
		case Synced:
		}
		if !published && live[first.key] && live[rankKey{20, 0}] {
			published = true
			add(later)
			for i := range uint64(blocks) {
				for _, w := range workers {
					w.publish(store(i))
				}
			}
			if err := first.pub.Shutdown(ctx); err != nil {
				t.Fatal(err)
			}
			delete(workers, first.key)
		}
		if same := func(a blockSet, w *realWorker) bool { return maps.Equal(a, w.blocks) }; published && maps.EqualFunc(view, workers, same) {
			return
		}
	}
	t.Error("the loop has ended")
}

func TestFollowEndsWithItsContextAndItsLoop(t *testing.T) {
	c := newClients(t, memory.New())
	for range 3 {
		for u, err := range Follow(t.Context(), c, testScope, FollowOptions{}) {
			if err != nil || u.Kind != Synced {
				t.Fatalf("update %+v, error %v, want synced", u, err)
			}
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range Follow(ctx, c, testScope, FollowOptions{}) {
		cancel()
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("last error %v, want that of the context", last)
	}
	for _, err := range Follow(t.Context(), c, discovery.Scope{Namespace: "dynamo"}, FollowOptions{}) {
		if last = err; err == nil {
			t.Fatal("a namespace was followed")
		}
	}
	if last == nil {
		t.Error("no error for a namespace")
	}
}
