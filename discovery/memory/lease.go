package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// lease is an entry of the registry.
type lease struct {
	*discovery.LeaseState
	store *store
	id    discovery.ID
	value []byte
}

// Update implements discovery.Lease.
func (l *lease) Update(_ context.Context, value []byte) error {
	registry := l.store.registry
	registry.mu.Lock()
	defer registry.mu.Unlock()
	if registry.entries[l.id] != l {
		return fmt.Errorf("update: %w", l.Wait(context.Background()))
	}
	l.value = value
	l.Beat(time.Now())
	registry.notify(l.id)
	return nil
}

// Unregister implements discovery.Lease.
func (l *lease) Unregister(context.Context) error {
	registry := l.store.registry
	registry.mu.Lock()
	defer registry.mu.Unlock()
	if registry.entries[l.id] == l {
		l.remove()
	}
	return nil
}

// remove requires the registry's lock. It is called once.
func (l *lease) remove() {
	registry := l.store.registry
	delete(registry.entries, l.id)
	registry.notify(l.id)
	l.End(discovery.ErrClosed)
}
