package kube

import (
	"context"
	"errors"
	"maps"

	"github.com/dynplane/dynplane/discovery"
)

// lease is a registration of this store.
type lease struct {
	store    *Store
	id       discovery.ID
	instance discovery.Instance
	done     chan struct{} // closed when the lease has ended, after err is set
	err      error
}

// Register puts the registration into the document of this worker. Readers see
// it while the pod is ready. One under the same id is replaced if it is ours,
// and else stays in its own worker's document.
func (s *Store) Register(ctx context.Context, id discovery.ID, value []byte) (discovery.Lease, error) {
	if err := s.options.canRegister(); err != nil {
		return nil, err
	}
	in, err := parseInstance(id, value)
	if err != nil {
		return nil, err
	}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.end()
	l := &lease{store: s, id: id, instance: in, done: make(chan struct{})}
	next := maps.Clone(s.leases)
	next[id] = l
	former := s.leases[id]
	if err := s.write(ctx, next); err != nil {
		return nil, err
	}
	if former != nil {
		former.finish(discovery.ErrTakenOver)
	}
	return l, nil
}

// Unregister takes the registration out of the document.
func (l *lease) Unregister(ctx context.Context) error {
	s := l.store
	if err := s.begin(ctx); errors.Is(err, discovery.ErrClosed) {
		return nil
	} else if err != nil {
		return err
	}
	defer s.end()
	if s.leases[l.id] != l {
		return nil
	}
	next := maps.Clone(s.leases)
	delete(next, l.id)
	if err := s.write(ctx, next); err != nil {
		return err
	}
	l.finish(discovery.ErrClosed)
	return nil
}

// Wait blocks until the registration has ended.
func (l *lease) Wait(ctx context.Context) error {
	select {
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish is called once, by who holds the turn.
func (l *lease) finish(err error) {
	l.err = err
	close(l.done)
}
