package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// feed is where a reflector puts the objects of one resource: what read makes
// of each, by name. It is a cache.ReflectorStore, and safe for concurrent use.
type feed[T any] struct {
	read    func(obj *unstructured.Unstructured, last T) T
	changed func()

	mu     sync.Mutex
	items  map[string]T
	listed bool // there has been a whole listing
}

func newFeed[T any](changed func(), read func(*unstructured.Unstructured, T) T) *feed[T] {
	return &feed[T]{read: read, changed: changed, items: map[string]T{}}
}

// Add takes an object that is new.
func (f *feed[T]) Add(obj any) error { return f.Update(obj) }

// Update takes an object that may be new.
func (f *feed[T]) Update(obj any) error {
	return f.change(obj, func(name string, u *unstructured.Unstructured) { f.items[name] = f.read(u, f.items[name]) })
}

// Delete takes an object out.
func (f *feed[T]) Delete(obj any) error {
	return f.change(obj, func(name string, _ *unstructured.Unstructured) { delete(f.items, name) })
}

func (f *feed[T]) change(obj any, do func(string, *unstructured.Unstructured)) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("object of type %T", obj)
	}
	f.mu.Lock()
	do(u.GetName(), u)
	f.mu.Unlock()
	f.changed()
	return nil
}

// Replace takes a whole listing.
func (f *feed[T]) Replace(objs []any, _ string) error {
	f.mu.Lock()
	items := make(map[string]T, len(objs))
	for _, obj := range objs {
		if u, ok := obj.(*unstructured.Unstructured); ok {
			items[u.GetName()] = f.read(u, f.items[u.GetName()])
		}
	}
	f.items, f.listed = items, true
	f.mu.Unlock()
	f.changed()
	return nil
}

// Resync does nothing: nothing is forgotten.
func (f *feed[T]) Resync() error { return nil }

// snapshot returns the items, and whether they are from a whole listing.
func (f *feed[T]) snapshot() (map[string]T, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.items), f.listed
}

// reflector keeps a feed equal to a resource.
type reflector struct {
	name     string // of the resource
	resource dynamic.ResourceInterface
	labels   string
	log      *slog.Logger
	failing  atomic.Bool

	// fail is offered an error that trying again does not mend unless somebody
	// changes the cluster, and reports whether it was taken.
	fail func(error) bool
}

// run lists and watches until ctx is done.
func (r *reflector) run(ctx context.Context, store cache.ReflectorStore) {
	silent := klog.Logger{} // what is worth telling is told by report
	lw := &cache.ListWatch{ListWithContextFunc: r.list, WatchFuncWithContext: r.watch}
	cache.NewReflectorWithOptions(lw, &unstructured.Unstructured{}, store, cache.ReflectorOptions{
		Name: r.name, TypeDescription: r.name, Logger: &silent,
		Backoff: &wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 10, Cap: 5 * time.Second},
	}).RunWithContext(klog.NewContext(ctx, silent))
}

func (r *reflector) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if o.ResourceVersion == "0" {
		o.ResourceVersion = "" // what is there now, not what a cache remembers
	}
	o.LabelSelector = r.labels
	list, err := r.resource.List(ctx, o)
	r.report(ctx, err)
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (r *reflector) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.LabelSelector = r.labels
	w, err := r.resource.Watch(ctx, o)
	// A listing by watch that is refused is followed by a plain one.
	if err == nil || o.SendInitialEvents == nil {
		r.report(ctx, err)
	}
	if err != nil && (utilnet.IsConnectionRefused(err) || apierrors.IsTooManyRequests(err)) {
		// The reflector would know these errors, and wait without looking at ctx.
		return nil, errors.New(err.Error())
	}
	return w, err
}

// report tells once that the API server is lost, and once that it is back.
func (r *reflector) report(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
	case err == nil:
		if r.failing.CompareAndSwap(true, false) {
			r.log.Info("kube: the API server answers again", "resource", r.name)
		}
	case r.hopeless(err):
	case r.failing.CompareAndSwap(false, true):
		r.log.Warn("kube: no listing or watch from the API server; what is known stays", "resource", r.name, "error", err)
	}
}

// hopeless reports whether an error has ended the watch.
func (r *reflector) hopeless(err error) bool {
	return (apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err)) &&
		r.fail(fmt.Errorf("list %s: %w (want its definition and a role that allows get, list and watch)", r.name, err))
}
