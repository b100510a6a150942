package discoverytest

import (
	"context"
	"iter"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/waittest"
)

// fixture is the registry of one case.
type fixture struct {
	t    *testing.T
	open func() discovery.Store
}

// client returns a client of another owner.
func (f *fixture) client() *discovery.Client {
	c := discovery.NewClient(f.open(), discovery.Options{})
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
		defer cancel()
		if err := c.Shutdown(ctx); err != nil {
			f.t.Errorf("shutdown: %v", err)
		}
	})
	return c
}

func (f *fixture) register(ctx context.Context, c *discovery.Client, instance uint64, spec discovery.Spec) *discovery.Registration {
	f.t.Helper()
	reg, err := c.RegisterAs(ctx, instance, spec)
	if err != nil {
		f.t.Fatalf("register: %v", err)
	}
	return reg
}

func (f *fixture) list(ctx context.Context, c *discovery.Client, q discovery.Query) []discovery.ID {
	f.t.Helper()
	instances, err := c.List(ctx, q)
	if err != nil {
		f.t.Fatalf("list: %v", err)
	}
	ids := make([]discovery.ID, len(instances))
	for i, in := range instances {
		ids[i] = in.ID()
	}
	return ids
}

// expectIDs compares ids in any order.
func (f *fixture) expectIDs(got []discovery.ID, want ...discovery.ID) {
	f.t.Helper()
	if len(got) != len(want) {
		f.t.Fatalf("got %d registrations %v, want %d %v", len(got), got, len(want), want)
	}
	have := map[discovery.ID]bool{}
	for _, id := range got {
		have[id] = true
	}
	for _, id := range want {
		if !have[id] {
			f.t.Fatalf("got %v, want %v among them", got, id)
		}
	}
}

// stream returns the events of a watch one by one.
type stream struct {
	f    *fixture
	next func() (discovery.Event, error, bool)
}

func (f *fixture) watch(ctx context.Context, c *discovery.Client, q discovery.Query) *stream {
	return f.watchWith(ctx, c, q, discovery.WatchOptions{})
}

func (f *fixture) watchWith(ctx context.Context, c *discovery.Client, q discovery.Query, o discovery.WatchOptions) *stream {
	next, stop := iter.Pull2(c.WatchWithOptions(ctx, q, o))
	f.t.Cleanup(stop)
	return &stream{f, next}
}

// expect receives an event of the given type and id.
func (s *stream) expect(want discovery.EventType, id discovery.ID) discovery.Instance {
	s.f.t.Helper()
	return s.expectEvent(want, id).Instance
}

func (s *stream) expectEvent(want discovery.EventType, id discovery.ID) discovery.Event {
	s.f.t.Helper()
	ev, err, ok := s.next()
	if err != nil || !ok {
		s.f.t.Fatalf("the watch ended (%v), want %v %v", err, want, id)
	}
	if ev.Type != want || want != discovery.Synced && ev.Instance.ID() != id {
		s.f.t.Fatalf("got %v %+v, want %v %v", ev.Type, ev.Instance, want, id)
	}
	return ev
}

func endpoint(ns, comp, ep string) discovery.Endpoint {
	return discovery.Endpoint{
		Scope:     discovery.Scope{Namespace: ns, Component: comp, Endpoint: ep},
		Transport: discovery.TCP("127.0.0.1:4000/2a/" + ep),
	}
}

func channel(scope discovery.Scope, topic, zmq string) discovery.EventChannel {
	return discovery.EventChannel{Scope: scope, Topic: topic, Transport: discovery.ZMQ{Endpoint: zmq}}
}

func model(f *fixture, name string) discovery.Model {
	f.t.Helper()
	m, err := discovery.NewModel(discovery.Scope{Namespace: "ns", Component: "comp", Endpoint: "ep"},
		map[string]any{"display_name": name}, "")
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}
