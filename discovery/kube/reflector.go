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

// resourceCache contains the objects of one resource by name, each as read
// returned it. It is the cache.ReflectorStore that a reflector fills, and safe
// for concurrent use.
type resourceCache[T any] struct {
	read    func(obj *unstructured.Unstructured, last T) T
	changed func() // called after each change

	mu     sync.Mutex
	items  map[string]T
	listed bool // a full listing has been received
}

func newResourceCache[T any](changed func(), read func(*unstructured.Unstructured, T) T) *resourceCache[T] {
	return &resourceCache[T]{read: read, changed: changed, items: map[string]T{}}
}

// Add implements cache.ReflectorStore.
func (c *resourceCache[T]) Add(obj any) error { return c.Update(obj) }

// Update implements cache.ReflectorStore. The object may be a new one.
func (c *resourceCache[T]) Update(obj any) error {
	return c.change(obj, func(name string, u *unstructured.Unstructured) { c.items[name] = c.read(u, c.items[name]) })
}

// Delete implements cache.ReflectorStore.
func (c *resourceCache[T]) Delete(obj any) error {
	return c.change(obj, func(name string, _ *unstructured.Unstructured) { delete(c.items, name) })
}

// change applies do to an object while the items are locked.
func (c *resourceCache[T]) change(obj any, do func(string, *unstructured.Unstructured)) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("object of type %T", obj)
	}
	c.mu.Lock()
	do(u.GetName(), u)
	c.mu.Unlock()
	c.changed()
	return nil
}

// Replace implements cache.ReflectorStore. It takes a full listing.
func (c *resourceCache[T]) Replace(objs []any, _ string) error {
	c.mu.Lock()
	items := make(map[string]T, len(objs))
	for _, obj := range objs {
		if u, ok := obj.(*unstructured.Unstructured); ok {
			items[u.GetName()] = c.read(u, c.items[u.GetName()])
		}
	}
	c.items, c.listed = items, true
	c.mu.Unlock()
	c.changed()
	return nil
}

// Resync implements cache.ReflectorStore. There is nothing to do, since no change
// is forgotten.
func (c *resourceCache[T]) Resync() error { return nil }

// snapshot returns the items, and whether a full listing has been received.
func (c *resourceCache[T]) snapshot() (map[string]T, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.items), c.listed
}

// reflector lists and watches a resource, with client-go's cache.Reflector.
type reflector struct {
	name     string // of the resource
	resource dynamic.ResourceInterface
	labels   string
	log      *slog.Logger
	failing  atomic.Bool // and logged

	// giveUp receives an error that persists unless the cluster is changed. It
	// reports whether the error has ended the watch.
	giveUp func(error) bool
}

// run keeps store equal to the resource until ctx is done.
func (r *reflector) run(ctx context.Context, store cache.ReflectorStore) {
	silent := klog.Logger{} // report logs instead
	lw := &cache.ListWatch{ListWithContextFunc: r.list, WatchFuncWithContext: r.watch}
	cache.NewReflectorWithOptions(lw, &unstructured.Unstructured{}, store, cache.ReflectorOptions{
		Name: r.name, TypeDescription: r.name, Logger: &silent,
		Backoff: &wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 10, Cap: 5 * time.Second},
	}).RunWithContext(klog.NewContext(ctx, silent))
}

// list is the reflector's request for a full listing.
func (r *reflector) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if o.ResourceVersion == "0" {
		o.ResourceVersion = "" // the present state, not that of a cache which may be stale
	}
	o.LabelSelector = r.labels
	list, err := r.resource.List(ctx, o)
	r.report(ctx, err)
	if err != nil {
		return nil, err
	}
	return list, nil
}

// watch is the reflector's request for the changes after a listing.
func (r *reflector) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.LabelSelector = r.labels
	w, err := r.resource.Watch(ctx, o)
	// If the API server refuses to list by a watch, the reflector calls list.
	if err == nil || o.SendInitialEvents == nil {
		r.report(ctx, err)
	}
	if err != nil && (utilnet.IsConnectionRefused(err) || apierrors.IsTooManyRequests(err)) {
		// For an error of these types the reflector would wait without
		// observing ctx, so it gets one of another type.
		return nil, errors.New(err.Error())
	}
	return w, err
}

// report logs once when the API server is lost, and once when it is back.
func (r *reflector) report(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
	case err == nil:
		if r.failing.CompareAndSwap(true, false) {
			r.log.Warn("kube: list and watch recovered", "resource", r.name)
		}
	case r.isFinal(err):
	case r.failing.CompareAndSwap(false, true):
		r.log.Warn("kube: list or watch failed, retrying; registrations stay as they are", "resource", r.name, "error", err)
	}
}

// isFinal reports whether an error has ended the watch.
func (r *reflector) isFinal(err error) bool {
	return (apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err)) &&
		r.giveUp(fmt.Errorf("list %s: %w: want its definition and a role that allows get, list and watch", r.name, err))
}
