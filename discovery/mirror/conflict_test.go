package mirror_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// targetCannotHoldSome has ids that the target cannot hold among others, such as ids
// above 53 bits in Kubernetes.
func targetCannotHoldSome(a, b *site) {
	t := a.t
	b.maxID = 1<<53 - 1
	endpoint := func(address string) discovery.Spec {
		return discovery.Endpoint{Scope: place, Transport: discovery.TCP(address)}
	}
	for _, id := range []uint64{1, 1 << 53, 1<<64 - 1, 2} {
		a.register(id, endpoint("x"))
	}
	r := start(a, b)
	b.expectWrites(2)
	b.expect(discovery.KindEndpoint, `"instance_id":1,`, `"instance_id":2,`)
	r.expectWarnings(2)
	if r.counts == nil || r.counts.Mirrored != 2 || r.counts.Failing != 2 {
		t.Errorf("counts %+v, want 2 mirrored and 2 failing", r.counts)
	}
	// A change nearby does not help; a change of the source is tried.
	b.register(3, endpoint("y"))
	b.expectWrites(2)
	a.register(1<<53, endpoint("z"))
	b.expectWrites(2)
	r.expectWarnings(2)
	if b.rejected != 3 {
		t.Errorf("%d attempts to register what the target cannot hold, want 3", b.rejected)
	}
	a.register(4, endpoint("x"))
	b.expectWrites(3)
}

// newValueDuringConflict changes the source while the mirror finds its former value
// in conflict. The new value must be registered without a change in the target.
func newValueDuringConflict(a, b *site) {
	a.write(1, model("llama"), "")
	b.register(2, model("qwen"))
	b.checking = sync.OnceFunc(func() {
		a.write(1, model("qwen"), "")
		<-time.After(time.Second) // the mirror receives it
	})
	start(a, b)
	<-time.After(time.Minute)
	b.expect(discovery.KindModel, `dynplane_mirror`, `qwen`)
}

func modelConflict(a, b *site) {
	a.register(1, model("llama"))
	native := b.register(2, model("qwen"))
	r := start(a, b)
	b.expect(discovery.KindModel, `qwen`)
	another := b.register(3, model("qwen")) // a change, after which the mirror retries
	b.expectWrites(0)
	r.expectWarnings(1)
	_ = another.Unregister(context.Background())
	_ = native.Unregister(context.Background())
	b.expectWrites(1)
	b.expect(discovery.KindModel, `llama`)
	r.expectWarnings(1)
}

func modelsInConflict(a, b *site) {
	t := a.t
	llama := a.write(1, model("llama"), "")
	qwen := a.write(2, model("qwen"), "")
	start(a, b)
	<-time.After(time.Minute)
	found := b.list(discovery.KindModel)
	if len(found) != 1 {
		t.Fatalf("%d models, want one of two: %s", len(found), found)
	}
	there, want := llama, "qwen"
	if strings.Contains(found[0], "qwen") {
		there, want = qwen, "llama"
	}
	_ = there.Unregister(context.Background())
	<-time.After(time.Minute)
	b.expect(discovery.KindModel, want)
}

func changedModelConflicts(a, b *site) {
	a.register(1, model("llama"))
	native := b.register(2, model("llama"))
	start(a, b)
	b.expect(discovery.KindModel, `dynplane_mirror`, `llama`)
	a.register(1, model("qwen"))
	b.expect(discovery.KindModel, `llama`)
	b.expectWrites(2)
	_ = native.Unregister(context.Background())
	<-time.After(time.Minute)
	b.expect(discovery.KindModel, `qwen`)
}

func sourceChanges(a, b *site) {
	a.register(1, source(`{"worker":1}`))
	r := start(a, b)
	b.expect(discovery.KindEventSource, `{"worker":1}`)
	a.write(1, source(`{"worker":2}`), "")
	b.expect(discovery.KindEventSource, `{"worker":2}`)
	b.expectWrites(3)
	r.expectWarnings(0)
}

func targetRefuses(a, b *site) {
	gone := a.register(1, endpoint("10.0.0.1:1"))
	r := start(a, b)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
	b.refuseMirrors(errors.New("away"))
	_ = gone.Unregister(context.Background())
	for id := range uint64(100) {
		a.register(2+id, model("llama"))
	}
	b.expectWrites(1)
	r.expectWarnings(1)
	b.refuseMirrors(nil)
	b.expectWrites(102)
	b.expect(discovery.KindEndpoint)
	r.expectWarnings(1)
}

func unregistersAtTheEnd(a, b *site) {
	t := a.t
	for id := range uint64(100) {
		a.register(id, endpoint("10.0.0.1:1"))
	}
	native := b.register(7, endpoint("10.0.0.1:2"))
	r := start(a, b)
	b.expectWrites(99)
	r.stop()
	b.expect(discovery.KindEndpoint, `10.0.0.1:2`)
	_ = native.Unregister(context.Background())

	r = start(a, b)
	b.expectWrites(99 + 99 + 100)
	b.refuseMirrors(errors.New("away"))
	r.cancel()
	err := <-r.ended
	r.ended = nil
	if err == nil || !strings.Contains(err.Error(), "100 entries") {
		t.Errorf("error %v, want one about 100 entries", err)
	}
}

func endsWithItsClient(a, b *site) {
	t := a.t
	a.register(1, endpoint("10.0.0.1:1"))
	for _, side := range []string{"source", "target"} {
		r := start(a, b)
		b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
		client := r.from
		if side == "target" {
			client = r.to
		}
		if err := client.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := <-r.ended
		r.ended = nil
		if !errors.Is(err, discovery.ErrClosed) || !strings.HasPrefix(err.Error(), "mirror: "+side) {
			t.Errorf("error %v, want one about the %s", err, side)
		}
		b.expect(discovery.KindEndpoint)
	}
}
