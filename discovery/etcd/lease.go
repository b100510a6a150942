package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
)

// lease is one registration: an entry, attached to the etcd lease that all
// entries of the store share.
type lease struct {
	*discovery.LeaseState
	store *Store
	key   string
	value string

	leaseID clientv3.LeaseID // of the last write; guarded by store.mu once registered
}

// Register implements discovery.Store. One put both creates an entry and takes
// over an existing one.
func (s *Store) Register(ctx context.Context, id discovery.ID, value []byte, _ discovery.RegisterOptions) (discovery.Lease, error) {
	bucket, err := discovery.DynamoBucket(id.Kind)
	if err != nil {
		return nil, err
	}
	key, err := discovery.DynamoKey(id, s.opt.Wire)
	if err != nil {
		return nil, err
	}
	l := &lease{store: s, key: bucket + "/" + key, value: string(value), LeaseState: discovery.NewLeaseState(time.Now())}
	if err := s.beginRegister(l.key); err != nil {
		return nil, err
	}
	lost := clientv3.NoLease
	err = s.retry(ctx, func(ctx context.Context) (err error) {
		if l.leaseID, err = s.ensureLease(ctx, lost); err != nil {
			return err
		}
		_, err = s.client.Put(ctx, l.key, l.value, clientv3.WithLease(l.leaseID))
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			lost, err = l.leaseID, errLeaseLost
		}
		return err
	})
	if err := s.finishRegister(l, s.located(err)); err != nil {
		return nil, err
	}
	return l, nil
}

// beginRegister and finishRegister enclose a registration, so that the
// keep-alive does not remove an entry that is being written as an orphan.
func (s *Store) beginRegister(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shutdown {
		return discovery.ErrClosed
	}
	s.pending[key]++
	return nil
}

// finishRegister hands a written entry to the keep-alive, which it starts if
// necessary.
func (s *Store) finishRegister(l *lease, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending[l.key]--; s.pending[l.key] == 0 {
		delete(s.pending, l.key)
	}
	// Start it after a failure too: the put may have been executed although it
	// failed, and the keep-alive removes such orphans. After a shutdown they
	// expire.
	if s.stop == nil && s.leaseID != clientv3.NoLease && !s.shutdown {
		ctx, cancel := context.WithCancel(context.Background())
		s.stop, s.stopped = cancel, make(chan struct{})
		go s.keepAlive(ctx)
	}
	if err != nil {
		return err
	}
	if s.shutdown {
		return discovery.ErrClosed
	}
	if former := s.leases[l.key]; former != nil {
		former.end(discovery.ErrTakenOver)
	}
	s.leases[l.key] = l
	return nil
}

// ensureLease returns the etcd lease of the store. It grants a new one if there
// is none, or if the present one is lost.
func (s *Store) ensureLease(ctx context.Context, lost clientv3.LeaseID) (clientv3.LeaseID, error) {
	select {
	case s.granting <- struct{}{}:
	case <-ctx.Done():
		return clientv3.NoLease, ctx.Err()
	}
	defer func() { <-s.granting }()
	if have := s.currentLease(); have != lost && have != clientv3.NoLease {
		return have, nil
	}
	granted, err := s.client.Grant(ctx, int64(s.opt.TTL.Seconds()))
	if err != nil {
		return clientv3.NoLease, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaseID = granted.ID
	return s.leaseID, nil
}

// currentLease returns NoLease before the first registration.
func (s *Store) currentLease() clientv3.LeaseID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaseID
}

// end requires store.mu.
func (l *lease) end(err error) {
	if l.store.leases[l.key] == l {
		delete(l.store.leases, l.key)
	}
	l.End(err)
}

// Unregister implements discovery.Lease.
func (l *lease) Unregister(ctx context.Context) error {
	l.store.mu.Lock()
	ended := l.Ended()
	l.end(discovery.ErrClosed)
	l.store.mu.Unlock()
	if ended {
		return nil
	}
	if err := l.store.remove(ctx, l); err != nil {
		return fmt.Errorf("%w; the entry is removed as soon as etcd is reachable, or expires within %v", l.store.located(err), l.store.opt.TTL)
	}
	return nil
}

// removeOp deletes the entry unless another owner has written it.
func (l *lease) removeOp() clientv3.Op {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	ours := clientv3.Compare(clientv3.LeaseValue(l.key), "=", l.leaseID)
	return clientv3.OpTxn([]clientv3.Cmp{ours}, []clientv3.Op{clientv3.OpDelete(l.key)}, nil)
}

// opsPerTxn is below the limit that etcd has by default, 128.
const opsPerTxn = 64

// remove deletes the entries of leases.
func (s *Store) remove(ctx context.Context, leases ...*lease) error {
	for chunk := range slices.Chunk(leases, opsPerTxn) {
		var ops []clientv3.Op
		for _, l := range chunk {
			ops = append(ops, l.removeOp())
		}
		err := s.retry(ctx, func(ctx context.Context) error {
			_, err := s.client.Txn(ctx).Then(ops...).Commit()
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
