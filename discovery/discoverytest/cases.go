package discoverytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/dynplane/dynplane/discovery"
)

var allEndpoints = discovery.Query{Kind: discovery.KindEndpoint}

// registeredAreListed: a list returns what another client has registered, with all of
// its fields.
func registeredAreListed(ctx context.Context, f *fixture) {
	c := f.client()
	f.expectIDs(f.list(ctx, c, allEndpoints))
	e := endpoint("ns", "comp", "ep")
	e.Device, e.RequestCodec = discovery.DeviceCUDA, "msgpack"
	reg := f.register(ctx, c, 1<<53-1, e)
	got, err := f.client().List(ctx, allEndpoints)
	if err != nil || len(got) != 1 {
		f.t.Fatalf("list: %v, %v", got, err)
	}
	if got[0].InstanceID != 1<<53-1 || !reflect.DeepEqual(got[0].Spec, reg.Instance().Spec) {
		f.t.Fatalf("stored %s, want %+v", got[0].Raw, reg.Instance())
	}
}

// idsOf64Bits: an id of 64 bits is stored exactly.
func idsOf64Bits(ctx context.Context, f *fixture) {
	c := f.client()
	e := endpoint("ns", "comp", "ep")
	f.register(ctx, c, 1<<64-1, e)
	f.expectIDs(f.list(ctx, c, allEndpoints), e.ID(1<<64-1))
}

// queriesSelect: a list returns the registrations of the query's kind, scope and topic
// only.
func queriesSelect(ctx context.Context, f *fixture) {
	c := f.client()
	e1, e2 := endpoint("a", "x", "generate"), endpoint("b", "x", "generate")
	inNS := channel(discovery.Scope{Namespace: "a"}, "t", "tcp://127.0.0.1:1")
	inComp := channel(discovery.Scope{Namespace: "a", Component: "x"}, "t", "tcp://127.0.0.1:2")
	inEP := channel(discovery.Scope{Namespace: "a", Component: "x", Endpoint: "generate"}, "u", "tcp://127.0.0.1:3")
	source := discovery.EventSource{Scope: inEP.Scope, Topic: "u", Metadata: json.RawMessage(`{"worker":{"worker_id":7}}`)}
	for _, spec := range []discovery.Spec{e1, e2, inNS, inComp, inEP, model(f, "m"), source} {
		f.register(ctx, c, 7, spec)
	}
	channels := func(scope discovery.Scope, topic string) discovery.Query {
		return discovery.Query{Kind: discovery.KindEventChannel, Scope: scope, Topic: topic}
	}
	a, ax := discovery.Scope{Namespace: "a"}, discovery.Scope{Namespace: "a", Component: "x"}
	for _, c2 := range []struct {
		q    discovery.Query
		want []discovery.Spec
	}{
		{allEndpoints, []discovery.Spec{e1, e2}},
		{discovery.Query{Kind: discovery.KindEndpoint, Scope: a}, []discovery.Spec{e1}},
		{discovery.Query{Kind: discovery.KindEndpoint, Scope: e2.Scope}, []discovery.Spec{e2}},
		{discovery.Query{Kind: discovery.KindEndpoint, Scope: discovery.Scope{Namespace: "c"}}, nil},
		{discovery.Query{Kind: discovery.KindModel}, []discovery.Spec{model(f, "m")}},
		{channels(discovery.Scope{}, ""), []discovery.Spec{inNS, inComp, inEP}},
		{channels(discovery.Scope{}, "t"), []discovery.Spec{inNS, inComp}},
		{channels(a, ""), []discovery.Spec{inNS, inComp, inEP}},
		{channels(ax, ""), []discovery.Spec{inComp, inEP}},
		{channels(ax, "u"), []discovery.Spec{inEP}},
		{channels(inEP.Scope, ""), []discovery.Spec{inEP}},
		{discovery.Query{Kind: discovery.KindEventSource, Scope: a, Topic: "u"}, []discovery.Spec{source}},
		{discovery.Query{Kind: discovery.KindEventSource, Topic: "t"}, nil},
		{discovery.Query{}, nil},
	} {
		var want []discovery.ID
		for _, spec := range c2.want {
			want = append(want, spec.ID(7))
		}
		f.expectIDs(f.list(ctx, c, c2.q), want...)
	}
}

// namesOfAnyBytes: names may contain the separators, wildcards and escapes of any
// store.
func namesOfAnyBytes(ctx context.Context, f *fixture) {
	c := f.client()
	var want []discovery.ID
	for i, name := range []string{"a.b", "a/b", "a b", "*", ">", "=2E", "%2F", "ünï", "a=b", "$KV", "x\x7f"} {
		spec := channel(discovery.Scope{Namespace: name, Component: name}, name, "tcp://127.0.0.1:1")
		f.register(ctx, c, uint64(i), spec)
		want = append(want, spec.ID(uint64(i)))
		f.expectIDs(f.list(ctx, c, discovery.Query{Kind: discovery.KindEventChannel, Scope: spec.Scope, Topic: name}), spec.ID(uint64(i)))
	}
	f.expectIDs(f.list(ctx, c, discovery.Query{Kind: discovery.KindEventChannel}), want...)
}

// watchBeginsWithPresentState: existing registrations come before Synced, new ones
// after it; Synced also comes if there is none.
func watchBeginsWithPresentState(ctx context.Context, f *fixture) {
	c := f.client()
	e := endpoint("ns", "comp", "ep")
	f.register(ctx, c, 1, e)
	w := f.watch(ctx, f.client(), allEndpoints)
	w.expect(discovery.Added, e.ID(1))
	w.expect(discovery.Synced, discovery.ID{})
	f.register(ctx, c, 2, e)
	w.expect(discovery.Added, e.ID(2))
	empty := f.watch(ctx, c, discovery.Query{Kind: discovery.KindModel})
	empty.expect(discovery.Synced, discovery.ID{})
}

// unregisteringIsWatched: watches report it at once, a second Unregister has no
// effect, and the id can be registered again.
func unregisteringIsWatched(ctx context.Context, f *fixture) {
	c := f.client()
	e := endpoint("ns", "comp", "ep")
	w := f.watch(ctx, c, allEndpoints)
	w.expect(discovery.Synced, discovery.ID{})
	reg := f.register(ctx, c, 1, e)
	w.expect(discovery.Added, e.ID(1))
	for range 2 { // the second is a no-op
		if err := reg.Unregister(ctx); err != nil {
			f.t.Fatal(err)
		}
	}
	w.expect(discovery.Removed, e.ID(1))
	if err := reg.Wait(ctx); !errors.Is(err, discovery.ErrClosed) {
		f.t.Fatalf("wait after unregister: %v", err)
	}
	f.expectIDs(f.list(ctx, c, allEndpoints))
	f.register(ctx, c, 1, e)
	w.expect(discovery.Added, e.ID(1))
}

// changedValueIsAddedAgain: a new value under the same id is an Added.
func changedValueIsAddedAgain(ctx context.Context, f *fixture) {
	c := f.client()
	scope := discovery.Scope{Namespace: "ns", Component: "comp"}
	w := f.watch(ctx, c, discovery.Query{Kind: discovery.KindEventChannel})
	w.expect(discovery.Synced, discovery.ID{})
	for _, zmq := range []string{"tcp://127.0.0.1:1", "tcp://127.0.0.1:2"} {
		spec := channel(scope, "t", zmq)
		f.register(ctx, c, 1, spec)
		in := w.expect(discovery.Added, spec.ID(1))
		if got := in.Spec.(discovery.EventChannel).Transport.Address(); got != zmq {
			f.t.Fatalf("address %q, want %q", got, zmq)
		}
	}
}

// unchangedValueIsNoEvent: the same value from another owner is no event.
func unchangedValueIsNoEvent(ctx context.Context, f *fixture) {
	c := f.client()
	e := endpoint("ns", "comp", "ep")
	w := f.watch(ctx, c, allEndpoints)
	w.expect(discovery.Synced, discovery.ID{})
	f.register(ctx, c, 1, e)
	w.expect(discovery.Added, e.ID(1))
	f.register(ctx, f.client(), 1, e) // by another owner, with the same value
	f.register(ctx, c, 2, e)
	w.expect(discovery.Added, e.ID(2))
}

// takenOver: the former lease ends with ErrTakenOver, and its owner does not remove the
// entry any more.
func takenOver(ctx context.Context, f *fixture) {
	former, owner := f.client(), f.client()
	e := endpoint("ns", "comp", "ep")
	reg := f.register(ctx, former, 1, e)
	e.Device = discovery.DeviceCPU
	f.register(ctx, owner, 1, e)
	if err := reg.Wait(ctx); !errors.Is(err, discovery.ErrTakenOver) {
		f.t.Fatalf("the former owner's registration ended with %v, want ErrTakenOver", err)
	}
	// The former owner no longer changes the entry.
	if err := reg.Unregister(ctx); err != nil {
		f.t.Fatal(err)
	}
	if err := former.Shutdown(ctx); err != nil {
		f.t.Fatal(err)
	}
	f.expectIDs(f.list(ctx, owner, allEndpoints), e.ID(1))
}

// shutdownRemovesItsOwn: a Shutdown removes the registrations of its client only, is
// idempotent, and makes later calls fail with ErrClosed.
func shutdownRemovesItsOwn(ctx context.Context, f *fixture) {
	going, staying := f.client(), f.client()
	e := endpoint("ns", "comp", "ep")
	f.register(ctx, going, 1, e)
	f.register(ctx, going, 2, e)
	f.register(ctx, staying, 3, e)
	for range 2 { // idempotent
		if err := going.Shutdown(ctx); err != nil {
			f.t.Fatal(err)
		}
	}
	f.expectIDs(f.list(ctx, staying, allEndpoints), e.ID(3))
	if _, err := going.Register(ctx, e); !errors.Is(err, discovery.ErrClosed) {
		f.t.Fatalf("register after shutdown: %v, want ErrClosed", err)
	}
	if _, err := going.List(ctx, allEndpoints); !errors.Is(err, discovery.ErrClosed) {
		f.t.Fatalf("list after shutdown: %v, want ErrClosed", err)
	}
}

// shutdownEndsWatches: the watches of a client end with ErrClosed.
func shutdownEndsWatches(ctx context.Context, f *fixture) {
	c := f.client()
	w := f.watch(ctx, c, allEndpoints)
	w.expect(discovery.Synced, discovery.ID{})
	go func() { _ = c.Shutdown(ctx) }()
	if _, err, _ := w.next(); !errors.Is(err, discovery.ErrClosed) {
		f.t.Fatalf("the watch ended with %v, want ErrClosed", err)
	}
}

// watchEndsWithItsContext: its last element is the error of ctx.
func watchEndsWithItsContext(ctx context.Context, f *fixture) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for ev, err := range f.client().Watch(ctx, allEndpoints) {
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				f.t.Fatalf("ended with %v, want context.Canceled", err)
			}
			return
		}
		if ev.Type == discovery.Synced {
			cancel()
		}
	}
	f.t.Fatal("the watch ended without an error")
}

// modelConflict: models that cannot be served together at one endpoint are refused.
func modelConflict(ctx context.Context, f *fixture) {
	a, b := f.client(), f.client()
	f.register(ctx, a, 1, model(f, "llama"))
	f.register(ctx, b, 2, model(f, "llama"))
	_, err := b.RegisterAs(ctx, 3, model(f, "qwen"))
	if !errors.Is(err, discovery.ErrModelConflict) {
		f.t.Fatalf("register of another model: %v, want ErrModelConflict", err)
	}
	lora := model(f, "qwen-lora")
	lora.Suffix = "lora"
	if _, err := b.RegisterAs(ctx, 3, lora); !errors.Is(err, discovery.ErrModelConflict) {
		f.t.Fatalf("adapter of another base: %v, want ErrModelConflict", err)
	}
	lora.Card = json.RawMessage(`{"display_name":"my-lora","source_path":"llama","lora":{"name":"my-lora"}}`)
	f.register(ctx, b, 2, lora)
	f.expectIDs(f.list(ctx, a, discovery.Query{Kind: discovery.KindModel}),
		model(f, "").ID(1), model(f, "").ID(2), lora.ID(2))
}

// modelConflictOfTwoAtOnce allows at most one winner of two, since each client
// checks for conflicts again after it has registered.
func modelConflictOfTwoAtOnce(ctx context.Context, f *fixture) {
	errs := make(chan error)
	clients := []*discovery.Client{f.client(), f.client()}
	for i, c := range clients {
		m := model(f, fmt.Sprint("model-", i))
		go func() {
			_, err := c.Register(ctx, m)
			errs <- err
		}()
	}
	won := 0
	for range clients {
		switch err := <-errs; {
		case err == nil:
			won++
		case !errors.Is(err, discovery.ErrModelConflict):
			f.t.Errorf("register: %v, want ErrModelConflict", err)
		}
	}
	if got := f.list(ctx, clients[0], discovery.Query{Kind: discovery.KindModel}); won > 1 || len(got) != won {
		f.t.Fatalf("%d of two conflicting models won, and %d are registered", won, len(got))
	}
}

// manyModelsAtOnce: compatible models of one endpoint that many clients register at the
// same time are all registered.
func manyModelsAtOnce(ctx context.Context, f *fixture) {
	const owners, each = 6, 8
	errs := make(chan error)
	var want []discovery.ID
	for o := range owners {
		c := f.client()
		for i := range each {
			id := uint64(o*each + i)
			want = append(want, model(f, "m").ID(id))
			go func() {
				_, err := c.RegisterAs(ctx, id, model(f, "m"))
				errs <- err
			}()
		}
	}
	for range want {
		if err := <-errs; err != nil {
			f.t.Error(err)
		}
	}
	f.expectIDs(f.list(ctx, f.client(), discovery.Query{Kind: discovery.KindModel}), want...)
}

// manyAtOnce: registrations of many owners at the same time are all listed, and each is
// Added once.
func manyAtOnce(ctx context.Context, f *fixture) {
	const owners, each = 8, 25
	errs := make(chan error)
	e := endpoint("ns", "comp", "ep")
	var want []discovery.ID
	w := f.watch(ctx, f.client(), allEndpoints)
	w.expect(discovery.Synced, discovery.ID{})
	for o := range owners {
		c := f.client()
		for i := range each {
			want = append(want, e.ID(uint64(o*each+i)))
		}
		go func() {
			var err error
			for i := range each {
				_, rerr := c.RegisterAs(ctx, uint64(o*each+i), e)
				err = errors.Join(err, rerr)
			}
			errs <- err
		}()
	}
	for range owners {
		if err := <-errs; err != nil {
			f.t.Error(err)
		}
	}
	var added []discovery.ID
	for range want {
		ev, err, _ := w.next()
		if err != nil || ev.Type != discovery.Added {
			f.t.Fatalf("got %v, %v", ev, err)
		}
		added = append(added, ev.Instance.ID())
	}
	f.expectIDs(added, want...)
	f.expectIDs(f.list(ctx, f.client(), allEndpoints), want...)
}
