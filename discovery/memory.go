package discovery

import (
	"context"
	"errors"
	"sync"
)

// Memory is a registry in the memory of the process, for tests and for
// programs of one process. Each owner opens a Store of its own on it. An entry
// lives until its owner removes it or shuts down.
type Memory struct {
	mu       sync.Mutex
	entries  map[ID]*memoryLease
	watchers map[*memoryWatcher]struct{}
}

// NewMemory makes an empty registry.
func NewMemory() *Memory {
	return &Memory{entries: map[ID]*memoryLease{}, watchers: map[*memoryWatcher]struct{}{}}
}

// Open returns the store of one owner.
func (m *Memory) Open() Store {
	return &memoryStore{m: m, closed: make(chan struct{})}
}

type memoryStore struct {
	m      *Memory
	once   sync.Once
	closed chan struct{}
}

type memoryLease struct {
	*LeaseEnd
	store *memoryStore
	id    ID
	value []byte
}

func (s *memoryStore) Register(ctx context.Context, id ID, value []byte) (Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.isClosed() {
		return nil, ErrClosed
	}
	if former := s.m.entries[id]; former != nil {
		former.End(ErrTakenOver)
	}
	l := &memoryLease{LeaseEnd: NewLeaseEnd(), store: s, id: id, value: value}
	s.m.entries[id] = l
	s.m.notify(id)
	return l, nil
}

func (s *memoryStore) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

func (s *memoryStore) Shutdown(context.Context) error {
	s.once.Do(func() {
		s.m.mu.Lock()
		defer s.m.mu.Unlock()
		close(s.closed)
		for _, l := range s.m.entries {
			if l.store == s {
				l.remove()
			}
		}
	})
	return nil
}

func (l *memoryLease) Unregister(context.Context) error {
	l.store.m.mu.Lock()
	defer l.store.m.mu.Unlock()
	if l.store.m.entries[l.id] == l {
		l.remove()
	}
	return nil
}

// remove is called under the registry's lock, once.
func (l *memoryLease) remove() {
	delete(l.store.m.entries, l.id)
	l.store.m.notify(l.id)
	l.End(ErrClosed)
}

// memoryWatcher remembers which ids have changed and reads their state when it
// is asked, so that what it keeps is bounded by the ids that there are.
type memoryWatcher struct {
	store *memoryStore
	query Query
	begun []Change // the beginning of the listing
	dirty map[ID]struct{}
	wake  chan struct{} // of capacity one
	done  chan struct{}
	once  sync.Once
}

func (s *memoryStore) Watch(_ context.Context, q Query) (Watcher, error) {
	w := &memoryWatcher{
		store: s, query: q, dirty: map[ID]struct{}{},
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.isClosed() {
		return nil, ErrClosed
	}
	w.begun = append(w.begun, Change{Op: OpReset})
	for id, l := range s.m.entries {
		if q.Match(id) {
			w.begun = append(w.begun, Change{Op: OpPut, ID: id, Key: id.Path(), Value: l.value})
		}
	}
	w.begun = append(w.begun, Change{Op: OpSynced})
	s.m.watchers[w] = struct{}{}
	return w, nil
}

func (m *Memory) notify(id ID) {
	for w := range m.watchers {
		if w.query.Match(id) {
			w.dirty[id] = struct{}{}
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
	}
}

func (w *memoryWatcher) Next(ctx context.Context) (Change, error) {
	if err := ctx.Err(); err != nil {
		return Change{}, err
	}
	if len(w.begun) > 0 {
		ch := w.begun[0]
		w.begun = w.begun[1:]
		return ch, nil
	}
	for {
		if ch, ok := w.take(); ok {
			return ch, nil
		}
		select {
		case <-w.wake:
		case <-w.done:
			return Change{}, errors.New("the watch is closed")
		case <-w.store.closed:
			return Change{}, ErrClosed
		case <-ctx.Done():
			return Change{}, ctx.Err()
		}
	}
}

func (w *memoryWatcher) take() (Change, bool) {
	m := w.store.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range w.dirty {
		delete(w.dirty, id)
		if l := m.entries[id]; l != nil {
			return Change{Op: OpPut, ID: id, Key: id.Path(), Value: l.value}, true
		}
		return Change{Op: OpDelete, ID: id, Key: id.Path(), Cause: CauseUnregistered}, true
	}
	return Change{}, false
}

func (w *memoryWatcher) Close() error {
	w.once.Do(func() {
		w.store.m.mu.Lock()
		defer w.store.m.mu.Unlock()
		delete(w.store.m.watchers, w)
		close(w.done)
	})
	return nil
}
