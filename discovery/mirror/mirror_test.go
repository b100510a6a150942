package mirror_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/discovery/mirror"
	"github.com/dynplane/dynplane/integration/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.IgnoreServer()) }

func TestMirror(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		run  func(a, b *site)
	}{
		{"follows", follows},
		{"keeps unknown fields", keepsUnknownFields},
		{"writes both generations", writesBothGenerations},
		{"queries select", queriesSelect},
		{"in sync", inSync},
		{"native is left alone", nativeIsLeftAlone},
		{"native takes over", nativeTakesOver},
		{"both ways", bothWays},
		{"ring of three", ring},
		{"second stands by", secondStandsBy},
		{"two start at once", twoStartAtOnce},
		{"target's watch lags", targetLags},
		{"model conflict", modelConflict},
		{"model conflict that ends while it is found", modelConflictEnds},
		{"new value during a conflict", newValueDuringConflict},
		{"models in conflict with each other", modelsInConflict},
		{"changed model conflicts", changedModelConflicts},
		{"source changes", sourceChanges},
		{"target refuses", targetRefuses},
		{"target cannot hold some", targetCannotHoldSome},
		{"unregisters at the end", unregistersAtTheEnd},
		{"ends with its client", endsWithItsClient},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { c.run(newSite(t), newSite(t)) })
		})
	}
}

func follows(a, b *site) {
	first := a.register(1, endpoint("10.0.0.1:1"))
	start(a, b)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
	a.register(2, endpoint("10.0.0.2:2"))
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`, `10.0.0.2:2`)
	a.register(2, endpoint("10.0.0.2:3"))
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`, `10.0.0.2:3`)
	_ = first.Unregister(context.Background())
	b.expect(discovery.KindEndpoint, `10.0.0.2:3`)
	b.expectWrites(4)
	if b.updated != 1 {
		b.t.Errorf("%d updates, want one for the changed value", b.updated)
	}
}

func keepsUnknownFields(a, b *site) {
	a.write(1, endpoint("10.0.0.1:1"), `, "new": {"deep":[1.0]} `)
	start(a, b)
	b.expect(discovery.KindEndpoint, `, "new": {"deep":[1.0]} ,"dynplane_mirror":"`)
	b.expectWrites(1)
}

func writesBothGenerations(a, b *site) {
	t := a.t
	channel := discovery.EventChannel{Scope: place, Topic: "kv-events", Transport: discovery.ZMQ{Endpoint: "tcp://10.0.0.1:1"}}
	component := channel
	component.Scope.Endpoint = ""
	const rest = `"topic":"kv-events","transport":{"kind":"Zmq","config":{"endpoint":"tcp://10.0.0.1:1"}},"instance_id":`
	for id, value := range map[discovery.ID]string{
		component.ID(1): `{"type":"EventChannel","namespace":"dynamo","component":"backend",` + rest + `1}`,
		channel.ID(2):   `{"type":"EventChannel","scope":{"kind":"endpoint","endpoint":{"namespace":"dynamo","component":"backend","name":"generate"}},` + rest + `2}`,
	} {
		if _, err := a.store.Register(t.Context(), id, []byte(value), discovery.RegisterOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	start(a, b)
	b.expect(discovery.KindEventChannel,
		`,"scope":{"kind":"component","namespace":"dynamo","component":"backend"}}`,
		`,"namespace":"dynamo","component":"backend"}`)
}

func queriesSelect(a, b *site) {
	a.register(1, endpoint("10.0.0.1:1"))
	a.register(1, model("llama"))
	elsewhere := endpoint("10.0.0.2:2")
	elsewhere.Scope.Namespace = "other"
	a.register(2, elsewhere)
	start(a, b, discovery.Query{Kind: discovery.KindEndpoint, Scope: discovery.Scope{Namespace: "other"}})
	b.expect(discovery.KindEndpoint, `10.0.0.2:2`)
	b.expect(discovery.KindModel)
}

func inSync(a, b *site) {
	t := a.t
	for id := range uint64(50) {
		a.register(id, endpoint("10.0.0.1:1"))
		a.register(id, model("llama"))
	}
	for id := range uint64(20) {
		b.register(id, endpoint("10.0.0.2:1"))
	}
	other := model("qwen")
	other.Scope.Namespace = "other"
	b.register(7, other)
	a.write(8, model("mistral"), "") // in conflict with llama
	other.Card = json.RawMessage(`{"display_name":"gemma"}`)
	a.register(9, other)
	r := start(a, b)
	synctest.Wait()
	if r.counts == nil {
		t.Fatal("the mirror is not in sync")
	}
	// Of llama and mistral at one endpoint, the second one fails.
	got := *r.counts
	if got.StandBy != 20 || got.Mirrored+got.Failing != 81 || got.Failing < 2 {
		t.Errorf("counts %+v", got)
	}
}

func nativeIsLeftAlone(a, b *site) {
	a.register(1, endpoint("10.0.0.1:1"))
	native := b.register(1, endpoint("10.0.0.1:2"))
	start(a, b)
	b.expect(discovery.KindEndpoint, `10.0.0.1:2`)
	a.register(1, endpoint("10.0.0.1:3"))
	b.expect(discovery.KindEndpoint, `10.0.0.1:2`)
	_ = native.Unregister(context.Background())
	b.expect(discovery.KindEndpoint, `10.0.0.1:3`)
	b.expectWrites(1)
}

func nativeTakesOver(a, b *site) {
	t := a.t
	in := a.register(1, endpoint("10.0.0.1:1"))
	start(a, b)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
	native := b.register(1, endpoint("10.0.0.1:2"))
	b.expectWrites(1)
	a.register(1, endpoint("10.0.0.1:3")) // no longer held by the mirror
	b.expectWrites(1)
	b.expect(discovery.KindEndpoint, `10.0.0.1:2`)
	held, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := native.Wait(held); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the native registration ended: %v", err)
	}
	_ = native.Unregister(context.Background())
	b.expectWrites(2)
	b.expect(discovery.KindEndpoint, `10.0.0.1:3`)

	// A takeover that ends before the watch delivers it.
	_ = b.register(1, endpoint("10.0.0.1:2")).Unregister(context.Background())
	b.expectWrites(3)
	b.expect(discovery.KindEndpoint, `10.0.0.1:3`)
	_ = in.Unregister(context.Background()) // of a former value: no effect
	b.expectWrites(3)
}

func bothWays(a, b *site) {
	a.register(1, endpoint("10.0.0.1:1"))
	gone := b.register(2, endpoint("10.0.0.2:1"))
	start(a, b)
	start(b, a)
	a.expect(discovery.KindEndpoint, `10.0.0.1:1`, `10.0.0.2:1`)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`, `10.0.0.2:1`)
	a.expectWrites(1)
	b.expectWrites(1)
	_ = gone.Unregister(context.Background())
	a.expect(discovery.KindEndpoint, `10.0.0.1:1`)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
	a.expectWrites(2)
	b.expectWrites(1)
}

func ring(a, b *site) {
	t := a.t
	c := newSite(t)
	gone := a.register(1, endpoint("10.0.0.1:1"))
	start(a, b)
	start(b, c)
	start(c, a)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
	c.expect(discovery.KindEndpoint) // through one mirror only
	b.expectWrites(1)
	c.expectWrites(0)
	a.expectWrites(0)
	_ = gone.Unregister(context.Background())
	b.expect(discovery.KindEndpoint)
}

func secondStandsBy(a, b *site) {
	a.register(1, endpoint("10.0.0.1:1"))
	first := start(a, b)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
	start(a, b)
	b.expectWrites(1)
	first.stop()
	b.expectWrites(3)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
}

func twoStartAtOnce(a, b *site) {
	t := a.t
	for id := range uint64(300) {
		a.register(id, endpoint("10.0.0.1:1"))
	}
	first, second := start(a, b), start(a, b)
	<-time.After(time.Minute)
	b.mu.Lock()
	settled := b.written
	b.mu.Unlock()
	if settled > 600 {
		t.Errorf("%d writes", settled)
	}
	b.expectWrites(settled)
	if n := len(b.list(discovery.KindEndpoint)); n != 300 {
		t.Errorf("%d entries", n)
	}
	first.stop()
	<-time.After(time.Minute)
	if n := len(b.list(discovery.KindEndpoint)); n != 300 {
		t.Errorf("%d entries after one mirror has gone", n)
	}
	second.stop()
	b.expect(discovery.KindEndpoint)
}

func targetLags(a, b *site) {
	b.lag = time.Second
	a.register(1, endpoint("10.0.0.1:1"))
	first := start(a, b)
	start(a, b)
	b.expectWrites(2) // one of each mirror; the second takes over
	first.stop()
	<-time.After(time.Minute)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
}

func modelConflictEnds(a, b *site) {
	a.register(1, model("llama"))
	native := b.register(2, model("qwen"))
	b.checking = sync.OnceFunc(func() {
		_ = native.Unregister(context.Background())
		<-time.After(time.Second) // the mirror receives the removal
	})
	start(a, b)
	<-time.After(time.Minute)
	b.expect(discovery.KindModel, `llama`)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	client := discovery.NewClient(memory.New().Open(), discovery.Options{})
	if err := mirror.Run(t.Context(), client, client, mirror.Options{}); !errors.Is(err, mirror.ErrSame) {
		t.Errorf("error %v, want ErrSame", err)
	}
}
