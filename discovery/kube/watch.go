package kube

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/dynplane/dynplane/discovery"
)

// debounce is how long after a change the next ones are waited for, so that a
// pod that moves from one EndpointSlice to another is not seen to go and come.
const debounce = 500 * time.Millisecond

// discoverable selects the EndpointSlices, or Pods, of the runtime.
const discoverable = "nvidia.com/dynamo-discovery-backend=kubernetes,nvidia.com/dynamo-discovery-enabled=true"

// watcher joins who is ready with the objects of workers. The feeds are filled
// by reflectors; the rest belongs to the caller of Next.
type watcher struct {
	query   discovery.Query
	own     func() (target, bool) // this worker, ready or not
	ready   *feed[[]target]
	workers *feed[*worker]
	wake    chan struct{} // of capacity one
	failed  chan error    // of capacity one: no use to try again

	synced  bool
	settled <-chan time.Time // when what has changed is looked at
	known   map[discovery.ID]entry
	bad     map[string]string // what has been told of each broken object
	queue   []discovery.Change

	cancel   context.CancelFunc
	running  sync.WaitGroup
	closed   <-chan struct{} // the store
	onClose  func()
	finished chan struct{}
	once     sync.Once
}

func newWatcher(q discovery.Query, read func(*unstructured.Unstructured) []target, own func() (target, bool)) *watcher {
	w := &watcher{
		query: q, own: own,
		wake: make(chan struct{}, 1), failed: make(chan error, 1), finished: make(chan struct{}),
		known: map[discovery.ID]entry{}, bad: map[string]string{},
		cancel: func() {}, onClose: func() {},
	}
	w.ready = newFeed(w.changed, func(obj *unstructured.Unstructured, _ []target) []target { return read(obj) })
	w.workers = newFeed(w.changed, readWorker)
	return w
}

func (w *watcher) changed() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Watch begins to follow what matches q.
func (s *Store) Watch(_ context.Context, q discovery.Query) (discovery.Watcher, error) {
	endpoints := schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}
	resource, read := endpoints, readySlice
	if s.options.Mode == ModeContainer {
		resource, read = schema.GroupVersionResource{Version: "v1", Resource: "pods"}, readyPod
	}
	w := newWatcher(q, read, s.self)
	w.closed = s.closed
	w.onClose = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, w)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
		return nil, discovery.ErrClosed
	default:
	}
	s.watchers[w] = struct{}{}
	// The watch lives until it is closed, whatever ends its beginning.
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.running.Go(func() { s.reflector(resource, discoverable, w).run(ctx, w.ready) })
	w.running.Go(func() { s.reflector(workers(), "", w).run(ctx, w.workers) })
	return w, nil
}

func (s *Store) reflector(resource schema.GroupVersionResource, labels string, w *watcher) *reflector {
	return &reflector{
		name:     resource.Resource,
		resource: s.client.Resource(resource).Namespace(s.namespace),
		labels:   labels, log: s.log, fail: w.fail,
	}
}

// self is this worker as a target, while it has something registered. It need
// not be ready: what it registers may be what it is waiting for.
func (s *Store) self() (target, bool) {
	return target{s.options.objectName(), s.options.PodUID}, s.own.Load()
}

func (s *Store) wakeWatchers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		w.changed()
	}
}

// fail ends a watch that has not begun. Later a role may be taken and given
// back, and what is known stays.
func (w *watcher) fail(err error) bool {
	if w.listed() {
		return false
	}
	select {
	case w.failed <- err:
	default:
	}
	return true
}

// listed reports whether both resources have been listed.
func (w *watcher) listed() bool {
	_, ready := w.ready.snapshot()
	_, workers := w.workers.snapshot()
	return ready && workers
}

// Next blocks for the next change.
func (w *watcher) Next(ctx context.Context) (discovery.Change, error) {
	if err := ctx.Err(); err != nil {
		return discovery.Change{}, err
	}
	for len(w.queue) == 0 {
		if err := w.wait(ctx); err != nil {
			return discovery.Change{}, err
		}
	}
	change := w.queue[0]
	w.queue = w.queue[1:]
	return change, nil
}

// wait blocks for something to happen, and fills the queue if it is time.
func (w *watcher) wait(ctx context.Context) error {
	select {
	case <-w.wake:
		if !w.synced {
			w.begin()
		} else if w.settled == nil {
			w.settled = time.After(debounce)
		}
	case <-w.settled:
		w.settled = nil
		w.collect()
	case err := <-w.failed:
		return err
	case <-w.closed:
		return discovery.ErrClosed
	case <-w.finished:
		select {
		case <-w.closed: // which is why
			return discovery.ErrClosed
		default:
			return errors.New("the watch is closed")
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// begin reports the first listing, once both resources are listed.
func (w *watcher) begin() {
	if !w.listed() {
		return
	}
	w.synced = true
	w.queue = append(w.queue, discovery.Change{Op: discovery.OpReset})
	w.collect()
	w.queue = append(w.queue, discovery.Change{Op: discovery.OpSynced})
}

// collect queues the difference between what is there and what is known.
func (w *watcher) collect() {
	byObject, _ := w.ready.snapshot()
	objects, _ := w.workers.snapshot()
	ready := slices.Concat(slices.Collect(maps.Values(byObject))...)
	if own, ok := w.own(); ok {
		ready = append(ready, own)
	}
	w.tellBad(objects)
	now := join(w.query, ready, objects)
	for _, id := range sorted(w.known) {
		if _, ok := now[id]; !ok {
			w.queue = append(w.queue, discovery.Change{
				Op: discovery.OpDelete, ID: id, Key: w.known[id].object, Cause: discovery.CauseUnregistered,
			})
		}
	}
	for _, id := range sorted(now) {
		if e := now[id]; !bytes.Equal(e.value, w.known[id].value) {
			w.queue = append(w.queue, discovery.Change{Op: discovery.OpPut, ID: id, Key: e.object, Value: e.value})
		}
	}
	w.known = now
}

// tellBad queues what is wrong with objects, once for each state.
func (w *watcher) tellBad(objects map[string]*worker) {
	told := w.bad
	w.bad = map[string]string{}
	for name, object := range objects {
		if object.err == nil {
			continue
		}
		w.bad[name] = object.uid + object.err.Error()
		if told[name] != w.bad[name] {
			w.queue = append(w.queue, discovery.Change{Op: discovery.OpInvalid, Key: name, Err: object.err})
		}
	}
}

func sorted(entries map[discovery.ID]entry) []discovery.ID {
	return slices.SortedFunc(maps.Keys(entries), discovery.ID.Compare)
}

// Close ends the watch.
func (w *watcher) Close() error {
	w.once.Do(func() {
		close(w.finished)
		w.cancel()
		w.onClose()
	})
	w.running.Wait()
	return nil
}
