package kube

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/dynplane/dynplane/discovery"
)

// fed is a watcher that the test feeds in the place of reflectors.
type fed struct {
	*testing.T
	*watcher
}

func newFed(t *testing.T, self func() (readyWorker, bool)) fed {
	t.Helper()
	if self == nil {
		self = func() (readyWorker, bool) { return readyWorker{}, false }
	}
	return fed{t, newWatcher(discovery.Query{Kind: discovery.KindEndpoint}, readyPods, self)}
}

func (f fed) slice(name string, ready bool, pods ...string) *unstructured.Unstructured {
	f.Helper()
	var endpoints string
	for i, pod := range pods {
		if i > 0 {
			endpoints += ","
		}
		endpoints += fmt.Sprintf(`{"conditions":{"ready":%v},"targetRef":{"kind":"Pod","name":%q,"uid":%q}}`, ready, pod, "pod-"+pod)
	}
	return parse(f.T, fmt.Sprintf(`{"metadata":{"name":%q},"endpoints":[%s]}`, name, endpoints))
}

func (f fed) worker(name string, id uint64) *unstructured.Unstructured {
	f.Helper()
	return parse(f.T, workerJSON(name, "uid-"+name, "pod-"+name, "", id))
}

// list delivers full listings of both resources.
func (f fed) list(slices, workers []any) {
	f.Helper()
	if err := errors.Join(f.ready.Replace(slices, "1"), f.workers.Replace(workers, "1")); err != nil {
		f.Fatal(err)
	}
}

func (f fed) expect(wants ...string) {
	f.Helper()
	for _, want := range wants {
		change, err := f.Next(f.Context())
		got := fmt.Sprintf("%d %d", change.Op, change.ID.Instance)
		if err != nil || got != want {
			f.Fatalf("got %q (%+v), %v, want %q", got, change, err, want)
		}
	}
}

// quiet expects no change for a while.
func (f fed) quiet() {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), time.Hour)
	defer cancel()
	if change, err := f.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		f.Fatalf("got %+v, %v, want nothing", change, err)
	}
}

func put(id uint64) string { return fmt.Sprintf("%d %d", discovery.OpPut, id) }

func gone(id uint64) string { return fmt.Sprintf("%d %d", discovery.OpDelete, id) }

var (
	reset  = fmt.Sprintf("%d 0", discovery.OpReset)
	synced = fmt.Sprintf("%d 0", discovery.OpSynced)
	broken = fmt.Sprintf("%d 0", discovery.OpInvalid)
)

func TestListingComesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFed(t, nil)
		start := time.Now()
		if err := f.ready.Replace([]any{f.slice("s", true, "a", "b")}, "1"); err != nil {
			t.Fatal(err)
		}
		f.quiet() // one of two listings is not enough
		start = start.Add(time.Hour)
		f.list([]any{f.slice("s", true, "a", "b")}, []any{f.worker("a", 1), f.worker("b", 2), f.worker("c", 3)})
		f.expect(reset, put(1), put(2), synced)
		if took := time.Since(start); took != 0 {
			t.Fatalf("the listing took %v", took)
		}
		f.quiet()
	})
}

func TestChangesAreDebounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFed(t, nil)
		f.list([]any{f.slice("s", true, "a")}, []any{f.worker("a", 1)})
		f.expect(reset, put(1), synced)

		// A pod moves from one slice to another, and is in none for a moment.
		start := time.Now()
		_ = f.ready.Update(f.slice("s", true))
		ctx, cancel := context.WithTimeout(t.Context(), debounce/2)
		if _, err := f.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("reported before the debounce: %v", err)
		}
		cancel()
		_ = f.ready.Add(f.slice("s2", true, "a"))
		_ = f.workers.Add(f.worker("b", 2))
		_ = f.ready.Update(f.slice("s", true, "b"))
		f.expect(put(2))
		if took := time.Since(start); took != debounce {
			t.Fatalf("the change took %v, want %v", took, debounce)
		}
		f.quiet()
	})
}

func TestPodsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFed(t, nil)
		f.list([]any{f.slice("s", true, "a")}, []any{f.worker("a", 1)})
		f.expect(reset, put(1), synced)
		_ = f.ready.Update(f.slice("s", false, "a"))
		f.expect(gone(1))
		_ = f.ready.Update(f.slice("s", true, "a"))
		f.expect(put(1))
		_ = f.workers.Update(f.worker("a", 2)) // under another id
		f.expect(gone(1), put(2))
		_ = f.workers.Delete(f.worker("a", 2))
		f.expect(gone(2))
		_ = f.ready.Delete(f.slice("s", true, "a"))
		_ = f.workers.Add(f.worker("a", 2))
		f.quiet()
	})
}

func TestRelistingIsADifference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFed(t, nil)
		f.list([]any{f.slice("s", true, "a", "b")}, []any{f.worker("a", 1), f.worker("b", 2)})
		f.expect(reset, put(1), put(2), synced)
		f.list([]any{f.slice("s", true, "a", "b")}, []any{f.worker("a", 1), f.worker("b", 2)})
		f.quiet()
		f.list([]any{f.slice("s", true, "b", "c")}, []any{f.worker("b", 2), f.worker("c", 3)})
		f.expect(gone(1), put(3))
		f.quiet()
	})
}

func TestBrokenObjectIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFed(t, nil)
		null := parse(t, `{"metadata":{"name":"a","uid":"uid-a","ownerReferences":[{"kind":"Pod","uid":"pod-a"}]},"spec":{"data":null}}`)
		f.list([]any{f.slice("s", true, "a")}, []any{f.worker("a", 1)})
		f.expect(reset, put(1), synced)
		_ = f.workers.Update(null)
		f.expect(broken)
		_ = f.workers.Update(null)
		_ = f.workers.Replace([]any{null}, "2")
		f.quiet()
		_ = f.workers.Update(f.worker("a", 2))
		f.expect(gone(1), put(2))
		_ = f.workers.Update(null)
		f.expect(broken)
		f.quiet()
	})
}

func TestOwnRegistrationsNeedNoReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registered := true
		f := newFed(t, func() (readyWorker, bool) { return readyWorker{"a", "pod-a"}, registered })
		f.list(nil, []any{f.worker("a", 1), f.worker("b", 2)})
		f.expect(reset, put(1), synced)
		registered = false
		f.markChanged()
		f.expect(gone(1))
	})
}

func TestHopelessFirstListingFails(t *testing.T) {
	t.Parallel()
	forbidden := errors.New("forbidden")
	f := newFed(t, nil)
	f.fail(forbidden)
	f.fail(forbidden)
	if _, err := f.Next(t.Context()); !errors.Is(err, forbidden) {
		t.Fatalf("got %v", err)
	}
	f = newFed(t, nil)
	f.list(nil, nil)
	f.expect(reset, synced)
	f.fail(forbidden)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Next(t.Context()); err == nil {
		t.Fatal("no error after Close")
	}
}
