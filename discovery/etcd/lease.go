package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
)

// entry is a registration, and the discovery.Lease that Register returns.
type entry struct {
	*discovery.LeaseEnd
	store *Store
	key   string
	value string

	lease clientv3.LeaseID // under which it was written last; under store.mu
}

// Register implements discovery.Store. One put both creates and takes over.
func (s *Store) Register(ctx context.Context, id discovery.ID, value []byte) (discovery.Lease, error) {
	bucket, err := discovery.DynamoBucket(id.Kind)
	if err != nil {
		return nil, err
	}
	key, err := discovery.DynamoKey(id)
	if err != nil {
		return nil, err
	}
	e := &entry{store: s, key: bucket + "/" + key, value: string(value), LeaseEnd: discovery.NewLeaseEnd()}
	if err := s.begin(e.key); err != nil {
		return nil, err
	}
	lost := clientv3.NoLease
	err = s.retry(ctx, func(ctx context.Context) (err error) {
		if e.lease, err = s.leaseOtherThan(ctx, lost); err != nil {
			return err
		}
		_, err = s.client.Put(ctx, e.key, e.value, clientv3.WithLease(e.lease))
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			lost, err = e.lease, errLeaseLost
		}
		return err
	})
	if err := s.finish(e, err); err != nil {
		return nil, err
	}
	return e, nil
}

// begin and finish stand around a registration, so that the keep-alive does
// not take an entry that is being written for one that nobody wants.
func (s *Store) begin(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return discovery.ErrClosed
	}
	s.pending[key]++
	return nil
}

// finish hands a written entry to the keep-alive, which it starts if needed.
func (s *Store) finish(e *entry, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending[e.key]--; s.pending[e.key] == 0 {
		delete(s.pending, e.key)
	}
	// The lease may exist, and what failed may have been written. The
	// keep-alive clears that away. After a shutdown the lease runs out.
	if s.stop == nil && s.lease != clientv3.NoLease && !s.shut {
		ctx, cancel := context.WithCancel(context.Background())
		s.stop, s.stopped = cancel, make(chan struct{})
		go s.keepAlive(ctx)
	}
	if err != nil {
		return err
	}
	if s.shut {
		return discovery.ErrClosed
	}
	if former := s.entries[e.key]; former != nil {
		former.end(discovery.ErrTakenOver)
	}
	s.entries[e.key] = e
	return nil
}

// leaseOtherThan returns the lease of the store, after granting a new one if
// it is the lost one or there is none.
func (s *Store) leaseOtherThan(ctx context.Context, lost clientv3.LeaseID) (clientv3.LeaseID, error) {
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
	s.lease = granted.ID
	return s.lease, nil
}

func (s *Store) currentLease() clientv3.LeaseID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease
}

// end is called under store.mu.
func (e *entry) end(err error) {
	if e.store.entries[e.key] == e {
		delete(e.store.entries, e.key)
	}
	e.End(err)
}

// Unregister implements discovery.Lease.
func (e *entry) Unregister(ctx context.Context) error {
	e.store.mu.Lock()
	ended := e.Ended()
	e.end(discovery.ErrClosed)
	e.store.mu.Unlock()
	if ended {
		return nil
	}
	if err := e.store.remove(ctx, e); err != nil {
		return fmt.Errorf("%w; the entry goes as soon as etcd can be reached, or within %v", err, e.store.opt.TTL)
	}
	return nil
}

// removeOp deletes the entry if it is the one that we wrote.
func (e *entry) removeOp() clientv3.Op {
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	ours := clientv3.Compare(clientv3.LeaseValue(e.key), "=", e.lease)
	return clientv3.OpTxn([]clientv3.Cmp{ours}, []clientv3.Op{clientv3.OpDelete(e.key)}, nil)
}

// opsPerTxn stays below what etcd allows by default, 128.
const opsPerTxn = 64

// remove deletes entries.
func (s *Store) remove(ctx context.Context, entries ...*entry) error {
	for some := range slices.Chunk(entries, opsPerTxn) {
		var ops []clientv3.Op
		for _, e := range some {
			ops = append(ops, e.removeOp())
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
