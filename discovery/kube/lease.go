package kube

import (
	"context"
	"errors"
	"maps"
	"sync/atomic"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

// lease is one registration: an element of this worker's document. It has no
// deadline; readers see it while the pod is ready.
type lease struct {
	*discovery.LeaseState
	store   *Store
	id      discovery.ID
	removed atomic.Bool // the object does not contain it any more
}

// Register implements discovery.Store. A registration of this store under the
// same id is replaced; one of another worker stays in that worker's document.
//
// With IfAbsent, registrations of other workers are looked up before and after the
// write, since Kubernetes cannot exclude them in one step: of two workers that
// register an id at once at most one succeeds.
func (s *Store) Register(ctx context.Context, id discovery.ID, value []byte, o discovery.RegisterOptions) (discovery.Lease, error) {
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
	ctx, cancel := wait.Until(ctx, s.life)
	defer cancel()
	if o.IfAbsent {
		if err := s.checkAbsent(ctx, id); err != nil {
			return nil, s.closedOr(err)
		}
	}
	next := maps.Clone(s.doc)
	next[id] = in
	sent := time.Now()
	if err := s.write(ctx, next); err != nil {
		return nil, s.closedOr(err)
	}
	if o.IfAbsent {
		if err := s.checkElsewhere(ctx, id); err != nil {
			next := maps.Clone(s.doc)
			delete(next, id)
			return nil, s.closedOr(errors.Join(err, s.undo(ctx, next)))
		}
	}
	l := &lease{store: s, id: id, LeaseState: discovery.NewLeaseState(sent)}
	if former := s.leases[id]; former != nil {
		former.removed.Store(true)
		former.End(discovery.ErrTakenOver)
	}
	s.leases[id] = l
	return l, nil
}

// checkAbsent returns ErrExists if an id is registered.
func (s *Store) checkAbsent(ctx context.Context, id discovery.ID) error {
	if s.leases[id] != nil {
		return discovery.ErrExists
	}
	return s.checkElsewhere(ctx, id)
}

// checkElsewhere returns ErrExists if another worker has registered an id.
func (s *Store) checkElsewhere(ctx context.Context, id discovery.ID) error {
	_, err := s.find(ctx, id, s.opt.objectName())
	if errors.Is(err, discovery.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = discovery.ErrExists
	}
	return err
}

// Update implements discovery.Lease.
func (l *lease) Update(ctx context.Context, value []byte) error {
	in, err := parseInstance(l.id, value)
	if err != nil {
		return err
	}
	s := l.store
	if err := s.lockDocument(ctx); err != nil {
		return err
	}
	defer s.unlockDocument()
	if l.Ended() {
		return l.Wait(context.Background())
	}
	ctx, cancel := wait.Until(ctx, s.life)
	defer cancel()
	next := maps.Clone(s.doc)
	next[l.id] = in
	return s.closedOr(s.write(ctx, next))
}

// Unregister implements discovery.Lease. The lease ends at once. After a failure
// the document is written again in the background.
func (l *lease) Unregister(ctx context.Context) error {
	s := l.store
	if l.removed.Load() {
		return nil
	}
	if err := s.lockDocument(ctx); errors.Is(err, discovery.ErrClosed) {
		return s.Shutdown(ctx) // which removes all registrations
	} else if err != nil {
		return err
	}
	err := l.unregister(ctx)
	s.unlockDocument()
	if err != nil && s.isClosed() {
		return s.Shutdown(ctx)
	}
	return err
}

// unregister requires the document's lock.
func (l *lease) unregister(ctx context.Context) error {
	s := l.store
	if l.removed.Load() { // by another call, or in the background
		return nil
	}
	if s.leases[l.id] == l {
		l.End(discovery.ErrClosed)
		s.leaving[l] = struct{}{}
		delete(s.leases, l.id)
		s.doc = maps.Clone(s.doc)
		delete(s.doc, l.id)
		s.dirty = true
	}
	ctx, cancel := wait.Until(ctx, s.life)
	defer cancel()
	if _, err := s.retry(ctx, attached, s.flush); err != nil {
		s.mend()
		return s.located(err)
	}
	return nil
}
