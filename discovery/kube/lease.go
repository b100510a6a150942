package kube

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// lease is one registration: an element of this worker's document. It has no
// deadline; readers see it while the pod is ready.
type lease struct {
	*discovery.LeaseState
	store    *Store
	id       discovery.ID
	instance discovery.Instance
}

// Register implements discovery.Store. A registration of this store under the
// same id is replaced; one of another worker stays in that worker's document.
func (s *Store) Register(ctx context.Context, id discovery.ID, value []byte, _ discovery.RegisterOptions) (discovery.Lease, error) {
	if err := s.opt.canRegister(); err != nil {
		return nil, err
	}
	in, err := parseInstance(id, value)
	if err != nil {
		return nil, err
	}
	if err := s.lockDocument(ctx); err != nil {
		return nil, err
	}
	defer s.unlockDocument()
	l := &lease{store: s, id: id, instance: in, LeaseState: discovery.NewLeaseState(time.Now())}
	next := maps.Clone(s.leases)
	next[id] = l
	former := s.leases[id]
	if err := s.write(ctx, next); err != nil {
		return nil, err
	}
	if former != nil {
		former.End(discovery.ErrTakenOver)
	}
	return l, nil
}

// Unregister implements discovery.Lease. The lease does not end if the document
// cannot be written.
func (l *lease) Unregister(ctx context.Context) error {
	s := l.store
	if err := s.lockDocument(ctx); errors.Is(err, discovery.ErrClosed) {
		return nil
	} else if err != nil {
		return err
	}
	defer s.unlockDocument()
	if s.leases[l.id] != l {
		return nil
	}
	next := maps.Clone(s.leases)
	delete(next, l.id)
	if err := s.write(ctx, next); err != nil {
		return err
	}
	l.End(discovery.ErrClosed)
	return nil
}
