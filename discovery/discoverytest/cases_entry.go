package discoverytest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// singleEntry: Get returns the value that is registered now, and ErrNotFound when
// there is none.
func singleEntry(ctx context.Context, f *fixture) {
	c, reader := f.client(), f.client()
	e := endpoint("ns", "comp", "ep")
	f.register(ctx, c, 2, e)
	for range 2 {
		if in, err := reader.Get(ctx, e.ID(1)); !errors.Is(err, discovery.ErrNotFound) {
			f.t.Fatalf("get of an id that is not registered: %v, %v, want ErrNotFound", in, err)
		}
		reg := f.register(ctx, c, 1, e)
		in, err := reader.Get(ctx, e.ID(1))
		if err != nil || in.InstanceID != 1 || !reflect.DeepEqual(in.Spec, e) {
			f.t.Fatalf("got %+v, %v, want %+v", in, err, e)
		}
		if err := reg.Unregister(ctx); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := reader.Shutdown(ctx); err != nil {
		f.t.Fatal(err)
	}
	if _, err := reader.Get(ctx, e.ID(2)); !errors.Is(err, discovery.ErrClosed) {
		f.t.Fatalf("get after shutdown: %v, want ErrClosed", err)
	}
}

// ifAbsent: a registration with IfAbsent takes over nothing, not even of its own
// client.
func ifAbsent(ctx context.Context, f *fixture) {
	c := f.client()
	registerIfAbsent(ctx, f, c, c)
}

// ifAbsentOfOthers: nor of another client.
func ifAbsentOfOthers(ctx context.Context, f *fixture) {
	registerIfAbsent(ctx, f, f.client(), f.client())
}

func registerIfAbsent(ctx context.Context, f *fixture, owner, other *discovery.Client) {
	f.t.Helper()
	in := discovery.Instance{InstanceID: 1, Spec: endpoint("ns", "comp", "ep")}
	o := discovery.RegisterOptions{IfAbsent: true}
	reg, err := owner.RegisterWithOptions(ctx, in, o)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := other.RegisterWithOptions(ctx, in, o); !errors.Is(err, discovery.ErrExists) {
		f.t.Fatalf("register of an id that is registered: %v, want ErrExists", err)
	}
	if health, _ := reg.Health(); !health.Healthy {
		f.t.Fatalf("the owner's registration has become %+v", health)
	}
	if err := reg.Unregister(ctx); err != nil {
		f.t.Fatal(err)
	}
	if _, err := other.RegisterWithOptions(ctx, in, o); err != nil {
		f.t.Fatalf("register of an id that is free again: %v", err)
	}
}

// updateInPlace: readers see another value and no removal, and the registration goes
// on.
func updateInPlace(ctx context.Context, f *fixture) {
	c := f.client()
	e := endpoint("ns", "comp", "ep")
	reg := f.register(ctx, c, 1, e)
	w := f.watchWith(ctx, f.client(), allEndpoints, discovery.WatchOptions{Updates: true})
	w.expect(discovery.Added, e.ID(1))
	w.expect(discovery.Synced, discovery.ID{})
	former := discovery.Spec(e)
	for _, codec := range []string{"msgpack", "json"} {
		e.RequestCodec = codec
		if err := reg.Update(ctx, e); err != nil {
			f.t.Fatal(err)
		}
		ev := w.expectEvent(discovery.Updated, e.ID(1))
		if !reflect.DeepEqual(ev.Instance.Spec, e) || !reflect.DeepEqual(ev.Previous.Spec, former) || !reflect.DeepEqual(reg.Instance().Spec, e) {
			f.t.Fatalf("updated from %+v to %+v, want from %+v to %+v", ev.Previous, ev.Instance, former, e)
		}
		former = e
	}
	if health, _ := reg.Health(); !health.Healthy {
		f.t.Fatalf("the registration has become %+v", health)
	}
	if err := reg.Unregister(ctx); err != nil {
		f.t.Fatal(err)
	}
	if ev := w.expectEvent(discovery.Removed, e.ID(1)); !reflect.DeepEqual(ev.Instance.Spec, e) {
		f.t.Fatalf("removed %+v, want the last value", ev.Instance)
	}
}

// updateAfterTheEnd: an update of a registration that has ended fails and writes
// nothing.
func updateAfterTheEnd(ctx context.Context, f *fixture) {
	c := f.client()
	e := endpoint("ns", "comp", "ep")
	reg := f.register(ctx, c, 1, e)
	if err := reg.Unregister(ctx); err != nil {
		f.t.Fatal(err)
	}
	if err := reg.Update(ctx, e); !errors.Is(err, discovery.ErrClosed) {
		f.t.Fatalf("update after unregister: %v, want ErrClosed", err)
	}
	f.expectIDs(f.list(ctx, c, allEndpoints))
}

// updateAfterTakenOver: an update does not write over the entry of another owner.
func updateAfterTakenOver(ctx context.Context, f *fixture) {
	c, other := f.client(), f.client()
	e := endpoint("ns", "comp", "ep")
	reg := f.register(ctx, c, 1, e)
	changed := e
	changed.Device = discovery.DeviceCPU
	f.register(ctx, other, 1, e)
	if err := reg.Update(ctx, changed); !errors.Is(err, discovery.ErrTakenOver) {
		f.t.Fatalf("update: %v, want ErrTakenOver", err)
	}
	if in, err := other.Get(ctx, e.ID(1)); err != nil || !reflect.DeepEqual(in.Spec, e) {
		f.t.Fatalf("got %+v, %v, want the other owner's %+v", in, err, e)
	}
}

// healthOfARegistration: it is healthy until it ends, which its channel reports.
func healthOfARegistration(ctx context.Context, f *fixture) {
	c := f.client()
	before := time.Now().Add(-time.Minute) // clocks of servers may differ from this one
	reg := f.register(ctx, c, 1, endpoint("ns", "comp", "ep"))
	health, changed := reg.Health()
	if !health.Healthy || health.Err != nil || health.LastBeat.Before(before) {
		f.t.Fatalf("a new registration is %+v", health)
	}
	if err := reg.Unregister(ctx); err != nil {
		f.t.Fatal(err)
	}
	select {
	case <-changed:
	case <-ctx.Done():
		f.t.Fatal("the end of the registration is not reported")
	}
	if health, _ := reg.Health(); health.Healthy || !errors.Is(health.Err, discovery.ErrClosed) {
		f.t.Fatalf("an ended registration is %+v", health)
	}
}

// exactScopeAndAnyKind: both apply to lists and watches; a watch of all kinds has one
// Synced.
func exactScopeAndAnyKind(ctx context.Context, f *fixture) {
	c := f.client()
	ns := discovery.Scope{Namespace: "a"}
	comp := discovery.Scope{Namespace: "a", Component: "x"}
	e := endpoint("a", "x", "generate")
	ofNS, ofComp, ofEP := channel(ns, "t", "tcp://127.0.0.1:1"), channel(comp, "t", "tcp://127.0.0.1:2"), channel(e.Scope, "t", "tcp://127.0.0.1:3")
	elsewhere := channel(discovery.Scope{Namespace: "b"}, "t", "tcp://127.0.0.1:4")
	all := []discovery.Spec{e, ofNS, ofComp, ofEP, elsewhere, model(f, "m")}
	for _, spec := range all {
		f.register(ctx, c, 7, spec)
	}
	channels := func(scope discovery.Scope) discovery.Query {
		return discovery.Query{Kind: discovery.KindEventChannel, Scope: scope, Exact: true}
	}
	for _, c2 := range []struct {
		q    discovery.Query
		want []discovery.Spec
	}{
		{channels(ns), []discovery.Spec{ofNS}},
		{channels(comp), []discovery.Spec{ofComp}},
		{channels(e.Scope), []discovery.Spec{ofEP}},
		{channels(discovery.Scope{}), nil},
		{discovery.Query{Kind: discovery.KindAny}, all},
		{discovery.Query{Kind: discovery.KindAny, Scope: ns}, []discovery.Spec{e, ofNS, ofComp, ofEP}},
		{discovery.Query{Kind: discovery.KindAny, Scope: e.Scope, Exact: true}, []discovery.Spec{e, ofEP}},
		{discovery.Query{Kind: discovery.KindAny, Topic: "t"}, []discovery.Spec{ofNS, ofComp, ofEP, elsewhere}},
	} {
		var want []discovery.ID
		for _, spec := range c2.want {
			want = append(want, spec.ID(7))
		}
		f.expectIDs(f.list(ctx, c, c2.q), want...)
	}
	w := f.watch(ctx, f.client(), discovery.Query{Kind: discovery.KindAny, Scope: ns})
	for range 4 {
		if ev, err, _ := w.next(); err != nil || ev.Type != discovery.Added {
			f.t.Fatalf("got %v, %v, want what is registered", ev, err)
		}
	}
	w.expect(discovery.Synced, discovery.ID{})
	f.register(ctx, c, 8, ofComp)
	w.expect(discovery.Added, ofComp.ID(8))
	f.register(ctx, c, 8, e)
	w.expect(discovery.Added, e.ID(8))
}

// waitsForInstances: WaitForInstances returns once there are enough.
func waitsForInstances(ctx context.Context, f *fixture) {
	c := f.client()
	e := endpoint("ns", "comp", "ep")
	type result struct {
		found []discovery.Instance
		err   error
	}
	got := make(chan result, 1)
	reader := f.client()
	go func() {
		found, err := reader.WaitForInstances(ctx, allEndpoints, 3)
		got <- result{found, err}
	}()
	for i := range uint64(3) {
		f.register(ctx, c, i, e)
	}
	r := <-got
	if r.err != nil || len(r.found) != 3 || r.found[2].InstanceID != 2 {
		f.t.Fatalf("got %v, %v, want three instances by id", r.found, r.err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if found, err := reader.WaitForInstances(short, allEndpoints, 4); !errors.Is(err, context.DeadlineExceeded) {
		f.t.Fatalf("got %v, %v, want the error of the context", found, err)
	}
}

// sameIDAtOnce: of the registrations of one id by one client at once, the last one
// wins, and the others end with ErrTakenOver.
func sameIDAtOnce(ctx context.Context, f *fixture) {
	const rounds, each = 20, 4
	c := f.client()
	e := endpoint("ns", "comp", "ep")
	for round := range uint64(rounds) {
		regs := make(chan *discovery.Registration, each)
		for i := range each {
			spec := e
			spec.RequestCodec = fmt.Sprint("codec-", i)
			go func() {
				reg, err := c.RegisterAs(ctx, round, spec)
				if err != nil {
					f.t.Errorf("register: %v", err)
				}
				regs <- reg
			}()
		}
		var all []*discovery.Registration
		for range each {
			if reg := <-regs; reg != nil {
				all = append(all, reg)
			}
		}
		in, err := c.Get(ctx, e.ID(round))
		if err != nil {
			f.t.Fatalf("round %d: the entry is gone: %v", round, err)
		}
		living := 0
		for _, reg := range all {
			if reflect.DeepEqual(reg.Instance().Spec, in.Spec) {
				living++
				if health, _ := reg.Health(); !health.Healthy {
					f.t.Fatalf("round %d: the entry is that of a registration that is %+v", round, health)
				}
			} else if err := reg.Wait(ctx); !errors.Is(err, discovery.ErrTakenOver) {
				f.t.Fatalf("round %d: another registration ended with %v, want ErrTakenOver", round, err)
			}
		}
		if living != 1 {
			f.t.Fatalf("round %d: %d of %d registrations are living", round, living, len(all))
		}
	}
}

// canceledRegister: a Register that is canceled leaves no entry, and does not end the
// former owner of one.
func canceledRegister(ctx context.Context, f *fixture) {
	former, c := f.client(), f.client()
	e := endpoint("ns", "comp", "ep")
	changed := e
	changed.Device = discovery.DeviceCPU
	for i := range uint64(40) {
		var reg *discovery.Registration
		if i%2 == 0 {
			reg = f.register(ctx, former, i, e)
		}
		short, cancel := context.WithTimeout(ctx, rand.N(4*time.Millisecond)) //nolint:gosec // any moment will do
		_, err := c.RegisterAs(short, i, changed)
		cancel()
		in, gerr := c.Get(ctx, e.ID(i))
		switch {
		case err == nil:
			if gerr != nil || !reflect.DeepEqual(in.Spec, changed) {
				f.t.Fatalf("registered, and got %+v, %v", in.Spec, gerr)
			}
		case reg == nil:
			if !errors.Is(gerr, discovery.ErrNotFound) {
				f.t.Fatalf("register failed with %v, and got %+v, %v, want ErrNotFound", err, in.Spec, gerr)
			}
		default:
			health, _ := reg.Health()
			if gerr != nil || !health.Healthy || !reflect.DeepEqual(in.Spec, e) {
				f.t.Fatalf("register failed with %v, and the former owner is %+v with %+v, %v", err, health, in.Spec, gerr)
			}
		}
	}
}
