package etcd

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

// lease is one registration: an entry, attached to the etcd lease that all
// entries of the store share.
type lease struct {
	*discovery.LeaseState
	store *Store
	key   string

	// The following are guarded by store.mu, and changed by the holder of the
	// key's lock.

	value    string
	leaseID  clientv3.LeaseID // of the last write
	revision int64            // of the last write
	lost     bool             // the entry does not exist, as far as is known
	suspect  bool             // the entry may have another value
	removed  bool             // the entry does not exist any more, or is another owner's
	refused  refusal          // to write it again
}

var errUnstorable = discovery.ErrUnstorable

// Register implements discovery.Store. It takes over an entry of another owner, or
// one that was written without a lease.
func (s *Store) Register(ctx context.Context, id discovery.ID, value []byte, o discovery.RegisterOptions) (discovery.Lease, error) {
	key, other, err := s.keysOf(id)
	if err != nil {
		return nil, err
	}
	done, err := s.call()
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := wait.Until(ctx, s.life)
	defer cancel()
	unlock, err := s.locks.lock(ctx, key)
	if err != nil {
		return nil, s.closedOr(err)
	}
	defer unlock()
	if err := s.settle(ctx, key); err != nil {
		return nil, s.located(s.closedOr(err))
	}
	w := &write{key: key, value: string(value), replace: func(*mvccpb.KeyValue) error { return nil }}
	if present := s.lease(key); present != nil {
		if o.IfAbsent {
			return nil, discovery.ErrExists
		}
		w.expected = present.revision
	}
	if o.IfAbsent {
		w.absent = other
		w.replace = func(kv *mvccpb.KeyValue) error {
			if clientv3.LeaseID(kv.Lease) == w.leaseID {
				return nil // the remainder of a request of this store
			}
			return discovery.ErrExists
		}
	}
	err = s.put(ctx, w)
	l, err := s.finishRegister(w, err)
	if err != nil {
		return nil, s.located(unstorable(err))
	}
	return l, nil
}

// lease returns the registration of a key, or nil.
func (s *Store) lease(key string) *lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases[key]
}

// settle removes what an earlier request that got no answer may have left. It
// requires the lock of the key.
func (s *Store) settle(ctx context.Context, key string) error {
	s.mu.Lock()
	left := s.orphans[key]
	s.mu.Unlock()
	if left == nil {
		return nil
	}
	err := s.retry(ctx, func(ctx context.Context) error {
		return s.removeOrphans(ctx, s.client, map[string]*orphan{key: left})
	})
	if err == nil {
		s.mu.Lock()
		delete(s.orphans, key)
		s.mu.Unlock()
	}
	return err
}

// finishRegister hands a written entry to the keep-alive, and one that may have
// been written as an orphan. It starts the keep-alive if necessary.
func (s *Store) finishRegister(w *write, err error) (*lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaseID != clientv3.NoLease {
		s.startKeepAlive()
	}
	present := s.leases[w.key]
	if err != nil {
		switch {
		case !w.uncertain:
		case present != nil:
			present.suspect = true
		default:
			s.orphans[w.key] = w.orphan(time.Now().Add(max(s.opt.TTL, maxExecution)))
		}
		return nil, err
	}
	if present != nil {
		present.removed = true
		present.end(discovery.ErrTakenOver)
	}
	l := &lease{
		LeaseState: discovery.NewLeaseState(w.sent), store: s,
		key: w.key, value: w.value, leaseID: w.leaseID, revision: w.revision,
	}
	s.leases[w.key] = l
	return l, nil
}

// maxExecution is longer than etcd takes to execute a request, or to drop it.
const maxExecution = 20 * time.Second

// orphan returns the entry that may have been written.
func (w *write) orphan(until time.Time) *orphan {
	o := &orphan{leaseID: w.leaseID, until: until}
	if kv := w.replaced; kv != nil && clientv3.LeaseID(kv.Lease) != w.leaseID {
		o.former = &former{value: string(kv.Value), leaseID: clientv3.LeaseID(kv.Lease)}
	}
	return o
}

// Update implements discovery.Lease.
func (l *lease) Update(ctx context.Context, value []byte) error {
	s := l.store
	done, err := s.call()
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := wait.Until(ctx, s.life)
	defer cancel()
	unlock, err := s.locks.lock(ctx, l.key)
	if err != nil {
		return s.closedOr(err)
	}
	defer unlock()
	if l.Ended() {
		return l.Wait(context.Background())
	}
	s.mu.Lock()
	w := &write{key: l.key, value: string(value), expected: l.revision, replace: l.mayReplace}
	s.mu.Unlock()
	err = s.put(ctx, w)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		l.suspect = l.suspect || w.uncertain
		return s.located(unstorable(err))
	}
	l.value = w.value
	l.written(w.leaseID, w.revision, w.sent)
	return nil
}

// written records a write. It requires store.mu.
func (l *lease) written(leaseID clientv3.LeaseID, revision int64, sent time.Time) {
	l.leaseID, l.revision = leaseID, revision
	l.lost, l.suspect, l.refused = false, false, refusal{}
	l.Beat(sent)
}

// mayReplace returns an error if an entry that was found in the place of the
// lease's is another owner's. The lease has ended then.
func (l *lease) mayReplace(kv *mvccpb.KeyValue) error {
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	switch clientv3.LeaseID(kv.Lease) {
	case s.leaseID, l.leaseID: // the former lease may be in a store that was restored from a backup
		return nil
	case clientv3.NoLease:
		s.log.Warn("etcd: a writer that holds no lease overwrote a registration", "key", l.key)
		return nil
	}
	if !l.Ended() {
		s.log.Warn("etcd: another owner took over a registration; it is no longer kept alive here",
			"key", l.key, "lease", fmt.Sprintf("%x", kv.Lease))
		l.removed = true
		l.end(discovery.ErrTakenOver)
	}
	return discovery.ErrTakenOver
}

// end requires store.mu.
func (l *lease) end(err error) {
	if l.store.leases[l.key] == l {
		delete(l.store.leases, l.key)
	}
	l.End(err)
}

// Unregister implements discovery.Lease. The lease ends at once. After a failure
// the keep-alive removes the entry as soon as it can.
func (l *lease) Unregister(ctx context.Context) error {
	s := l.store
	if l.isRemoved() {
		return nil
	}
	done, err := s.call()
	if err != nil {
		return s.Shutdown(ctx) // which removes all entries
	}
	err = l.unregister(ctx)
	done()
	if err != nil && s.isClosed() {
		return s.Shutdown(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w; the entry is removed as soon as etcd is reachable, or expires within %v", s.located(err), s.opt.TTL)
	}
	return nil
}

func (l *lease) isRemoved() bool {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	return l.removed
}

func (l *lease) unregister(ctx context.Context) error {
	s := l.store
	ctx, cancel := wait.Until(ctx, s.life)
	defer cancel()
	unlock, err := s.locks.lock(ctx, l.key)
	if err != nil {
		return err
	}
	defer unlock()
	if l.isRemoved() { // by another call meanwhile
		return nil
	}
	s.mu.Lock()
	l.end(discovery.ErrClosed)
	left := &orphan{leaseID: l.leaseID, lease: l}
	s.orphans[l.key] = left
	s.mu.Unlock()
	return s.retry(ctx, func(ctx context.Context) error {
		return s.removeOrphans(ctx, s.client, map[string]*orphan{l.key: left})
	})
}
