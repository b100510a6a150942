// Package memory keeps registrations in the memory of the process, for tests
// and for programs of one process. An entry lives until its owner removes it or
// shuts down.
//
//	registry := memory.New()
//	worker := discovery.NewClient(registry.Open(), discovery.Options{})
//	router := discovery.NewClient(registry.Open(), discovery.Options{})
package memory

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// Registry holds the registrations of all the stores opened on it. It is safe
// for concurrent use.
type Registry struct {
	mu       sync.Mutex
	entries  map[discovery.ID]*lease
	watchers map[*watcher]struct{}
}

// New returns an empty registry.
func New() *Registry {
	return &Registry{entries: map[discovery.ID]*lease{}, watchers: map[*watcher]struct{}{}}
}

// Open returns the store of one owner.
func (r *Registry) Open() discovery.Store {
	return &store{registry: r, closed: make(chan struct{})}
}

// notify requires the registry's lock.
func (r *Registry) notify(id discovery.ID) {
	for w := range r.watchers {
		if w.query.Match(id) {
			w.markChanged(id)
		}
	}
}

// store is the part of a registry that one owner registers.
type store struct {
	registry *Registry
	once     sync.Once
	closed   chan struct{}
}

// Register implements discovery.Store.
func (s *store) Register(ctx context.Context, id discovery.ID, value []byte, o discovery.RegisterOptions) (discovery.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	if s.isClosed() {
		return nil, discovery.ErrClosed
	}
	if former := s.registry.entries[id]; former != nil {
		if o.IfAbsent {
			return nil, discovery.ErrExists
		}
		former.End(discovery.ErrTakenOver)
	}
	l := &lease{LeaseState: discovery.NewLeaseState(time.Now()), store: s, id: id, value: value}
	s.registry.entries[id] = l
	s.registry.notify(id)
	return l, nil
}

// Get implements discovery.Store.
func (s *store) Get(ctx context.Context, id discovery.ID) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	if s.isClosed() {
		return nil, discovery.ErrClosed
	}
	l := s.registry.entries[id]
	if l == nil {
		return nil, fmt.Errorf("get: %w", discovery.ErrNotFound)
	}
	return l.value, nil
}

func (s *store) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// Shutdown implements discovery.Store.
func (s *store) Shutdown(context.Context) error {
	s.once.Do(func() {
		s.registry.mu.Lock()
		defer s.registry.mu.Unlock()
		close(s.closed)
		for _, l := range s.registry.entries {
			if l.store == s {
				l.remove()
			}
		}
	})
	return nil
}
