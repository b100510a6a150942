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

// debounce is the delay after a change during which further changes are
// collected, so that a pod that moves from one EndpointSlice to another is not
// reported as removed and added again.
const debounce = 500 * time.Millisecond

// discoverable selects the EndpointSlices, or Pods, of Dynamo's workers.
const discoverable = "nvidia.com/dynamo-discovery-backend=kubernetes,nvidia.com/dynamo-discovery-enabled=true"

// watcher joins the ready workers with the objects of all workers. Reflectors
// fill the two caches; the other fields belong to the caller of Next.
type watcher struct {
	query   discovery.Query
	self    func() (readyWorker, bool) // this worker, whether or not it is ready
	ready   *resourceCache[[]readyWorker]
	workers *resourceCache[*worker]
	wake    chan struct{} // of capacity one
	failed  chan error    // of capacity one; ends the watch

	synced    bool
	debounced <-chan time.Time // the end of debounce; nil if nothing has changed
	known     map[discovery.ID]entry
	invalid   map[string]string // by object, the error that has been reported
	queued    []discovery.Change

	cancel  context.CancelFunc // of the reflectors
	running sync.WaitGroup
	closed  <-chan struct{} // that of the store
	onClose func()
	done    chan struct{} // closed by Close
	once    sync.Once
}

func newWatcher(q discovery.Query, read func(*unstructured.Unstructured) []readyWorker, self func() (readyWorker, bool)) *watcher {
	w := &watcher{
		query: q, self: self,
		wake: make(chan struct{}, 1), failed: make(chan error, 1), done: make(chan struct{}),
		known: map[discovery.ID]entry{}, invalid: map[string]string{},
		cancel: func() {}, onClose: func() {},
	}
	w.ready = newResourceCache(w.markChanged, func(obj *unstructured.Unstructured, _ []readyWorker) []readyWorker { return read(obj) })
	w.workers = newResourceCache(w.markChanged, readWorker)
	return w
}

// markChanged wakes Next. It is called by the caches, and does not block.
func (w *watcher) markChanged() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Watch implements discovery.Store.
func (s *Store) Watch(_ context.Context, q discovery.Query) (discovery.Watcher, error) {
	resource, read := s.readiness()
	w := newWatcher(q, read, s.self)
	w.closed = s.life.Done()
	w.onClose = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, w)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return nil, discovery.ErrClosed
	}
	s.watchers[w] = struct{}{}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.running.Go(func() { s.reflector(resource, discoverable, w).run(ctx, w.ready) })
	w.running.Go(func() { s.reflector(workerResource(), "", w).run(ctx, w.workers) })
	return w, nil
}

func (s *Store) reflector(resource schema.GroupVersionResource, labels string, w *watcher) *reflector {
	return &reflector{
		name:     resource.Resource,
		resource: s.client.Resource(resource).Namespace(s.namespace),
		labels:   labels, log: s.log, giveUp: w.fail,
	}
}

// self returns this worker if it has registered anything. It need not be ready:
// its readiness may depend on its own registrations.
func (s *Store) self() (readyWorker, bool) {
	return readyWorker{s.opt.objectName(), s.opt.PodUID}, s.registered.Load()
}

// wakeWatchers has all watches compare again, after self has changed without a change
// of an object.
func (s *Store) wakeWatchers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		w.markChanged()
	}
}

// fail ends the watch if it has not begun, and reports whether it did. A watch
// that has begun keeps its state, since a role can be revoked and granted again.
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

// Next implements discovery.Watcher.
func (w *watcher) Next(ctx context.Context) (discovery.Change, error) {
	if err := ctx.Err(); err != nil {
		return discovery.Change{}, err
	}
	for len(w.queued) == 0 {
		if err := w.step(ctx); err != nil {
			return discovery.Change{}, err
		}
	}
	change := w.queued[0]
	w.queued = w.queued[1:]
	change.More = len(w.queued) > 0 // a comparison finds them in no order
	return change, nil
}

// step waits for one event, and queues changes if they are due.
func (w *watcher) step(ctx context.Context) error {
	select {
	case <-w.wake:
		if !w.synced {
			w.queueListing()
		} else if w.debounced == nil {
			w.debounced = time.After(debounce)
		}
	case <-w.debounced:
		w.debounced = nil
		w.queueDifference()
	case err := <-w.failed:
		return err
	case <-w.closed:
		return discovery.ErrClosed
	case <-w.done:
		select {
		case <-w.closed: // the store has closed the watch
			return discovery.ErrClosed
		default:
			return errors.New("the watch is closed")
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// queueListing queues the first listing, once both resources have been listed.
func (w *watcher) queueListing() {
	if !w.listed() {
		return
	}
	w.synced = true
	w.queued = append(w.queued, discovery.Change{Op: discovery.OpReset})
	w.queueDifference()
	w.queued = append(w.queued, discovery.Change{Op: discovery.OpSynced})
}

// queueDifference queues the changes between the known and the present state.
func (w *watcher) queueDifference() {
	byObject, _ := w.ready.snapshot()
	objects, _ := w.workers.snapshot()
	ready := slices.Concat(slices.Collect(maps.Values(byObject))...)
	if self, ok := w.self(); ok {
		ready = append(ready, self)
	}
	w.queueInvalid(objects)
	present := join(w.query, ready, objects)
	for _, id := range sortedIDs(w.known) {
		if _, ok := present[id]; !ok {
			w.queued = append(w.queued, discovery.Change{
				Op: discovery.OpDelete, ID: id, Key: w.known[id].object, Cause: discovery.CauseUnregistered,
			})
		}
	}
	for _, id := range sortedIDs(present) {
		if e := present[id]; !bytes.Equal(e.value, w.known[id].value) {
			w.queued = append(w.queued, discovery.Change{Op: discovery.OpPut, ID: id, Key: e.object, Value: e.value})
		}
	}
	w.known = present
}

// queueInvalid queues the errors of objects, each once.
func (w *watcher) queueInvalid(objects map[string]*worker) {
	reported := w.invalid
	w.invalid = map[string]string{}
	for name, object := range objects {
		if object.err == nil {
			continue
		}
		w.invalid[name] = object.uid + object.err.Error()
		if reported[name] != w.invalid[name] {
			w.queued = append(w.queued, discovery.Change{Op: discovery.OpInvalid, Key: name, Err: object.err})
		}
	}
}

func sortedIDs(entries map[discovery.ID]entry) []discovery.ID {
	return slices.SortedFunc(maps.Keys(entries), discovery.ID.Compare)
}

// Close implements discovery.Watcher.
func (w *watcher) Close() error {
	w.once.Do(func() {
		close(w.done)
		w.cancel()
		w.onClose()
	})
	w.running.Wait()
	return nil
}
