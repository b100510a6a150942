package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

// Shutdown implements discovery.Store. It deletes the entries and lets the empty
// lease expire. If it revoked the lease, watchers that have just recovered from a
// fault could not distinguish that from the death of the owner, and would hold
// the removals. Only after a write that got no answer it does so, since the write
// may be executed later.
//
// After a failure the connection is closed too; a later call opens another one.
func (s *Store) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.endLife() // under the lock, so that no call begins afterwards
	s.mu.Unlock()
	select {
	case s.removing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.removing }()
	if s.finished {
		return nil
	}
	s.running.Wait()
	s.calls.Wait()
	s.endLeases(discovery.ErrClosed)
	ctx, cancel := context.WithTimeout(ctx, s.opt.TTL)
	defer cancel()
	err := s.removeAll(ctx)
	if s.connected {
		s.connected = false
		_ = s.client.Close() // its error is that of a request that no longer matters
	}
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return fmt.Errorf("etcd at %s: %w; %d entries stay until their lease expires, within %v",
			s.opt.addresses(), err, len(s.orphans), s.opt.TTL)
	}
	s.finished = true
	return nil
}

// endLeases ends all leases. Their entries become orphans.
func (s *Store) endLeases(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.leases {
		l.end(cause)
		s.orphans[l.key] = &orphan{leaseID: l.leaseID, lease: l}
	}
}

// removeAll removes the entries that are left, which are all orphans by now. It
// sends no request if there are none.
func (s *Store) removeAll(ctx context.Context) error {
	s.mu.Lock()
	orphans, leaseID, revoke := maps.Clone(s.orphans), s.leaseID, s.revoke
	s.mu.Unlock()
	if len(orphans) == 0 && !revoke {
		return nil
	}
	client := s.client
	if !s.connected {
		var err error
		if client, err = s.connect(ctx); err != nil {
			return err
		}
		defer func() { _ = client.Close() }()
	}
	err := persist(ctx, func(ctx context.Context) error {
		s.mu.Lock()
		orphans = maps.Clone(s.orphans)
		s.mu.Unlock()
		return s.removeOrphans(ctx, client, orphans)
	})
	if err != nil || !revoke {
		return err
	}
	err = persist(ctx, func(ctx context.Context) error {
		_, err := client.Revoke(ctx, leaseID)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return nil
		}
		return err
	})
	if err == nil {
		s.mu.Lock()
		s.revoke = false
		s.mu.Unlock()
	}
	return err
}

// persist calls try until it succeeds, fails permanently, or ctx is done.
func persist(ctx context.Context, try func(context.Context) error) error {
	backoff, patience := newBackoff(), patience{}
	for {
		err := patience.request(ctx, try)
		if err == nil || !isTransient(err) || wait.Sleep(ctx, backoff.Next()) != nil {
			return err
		}
	}
}

// orphan is an entry that may exist under the etcd lease of the store although it
// is not registered: the request that wrote or removed it got no answer. The
// keep-alive and Shutdown remove orphans.
type orphan struct {
	leaseID clientv3.LeaseID
	// former is the entry of another owner that the write would have replaced. It
	// is restored; nil if there is none.
	former *former
	// lease is that of an entry which is being removed; nil for one that was not
	// registered.
	lease *lease
	// until is when a write that got no answer can no longer be executed; zero
	// for the removal of an entry.
	until time.Time
}

type former struct {
	value   string
	leaseID clientv3.LeaseID
}

// removeOrphans removes entries, many in one transaction. Those that are another
// owner's by now are left alone.
func (s *Store) removeOrphans(ctx context.Context, client clientv3.KV, orphans map[string]*orphan) error {
	var plain []string
	var failed error
	for key, o := range orphans {
		if o.former == nil {
			plain = append(plain, key)
		} else if err := s.restoreFormer(ctx, client, key, o); err != nil {
			failed = err
		}
	}
	slices.Sort(plain)
	err := eachBatch(ctx, slices.Collect(slices.Chunk(plain, opsPerTxn)), func(ctx context.Context, keys []string) error {
		var ops []clientv3.Op
		for _, key := range keys {
			ours := clientv3.Compare(clientv3.LeaseValue(key), "=", orphans[key].leaseID)
			ops = append(ops, clientv3.OpTxn([]clientv3.Cmp{ours}, []clientv3.Op{clientv3.OpDelete(key)}, nil))
		}
		if _, err := client.Txn(ctx).Then(ops...).Commit(); err != nil {
			return err
		}
		for _, key := range keys {
			s.removed(key, orphans[key])
		}
		return nil
	})
	return errors.Join(failed, err)
}

// restoreFormer gives an id back to the owner from which a registration that
// failed has taken it. If that owner is dead, it removes the entry.
func (s *Store) restoreFormer(ctx context.Context, client clientv3.KV, key string, o *orphan) error {
	ours := clientv3.Compare(clientv3.LeaseValue(key), "=", o.leaseID)
	_, err := client.Txn(ctx).If(ours).Then(clientv3.OpPut(key, o.former.value, clientv3.WithLease(o.former.leaseID))).Commit()
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		_, err = client.Txn(ctx).If(ours).Then(clientv3.OpDelete(key)).Commit()
	}
	if err == nil {
		s.removed(key, o)
	}
	return err
}

// removed records that an orphan has been removed. That of a write which got no
// answer may come back; it stays recorded until that is excluded.
func (s *Store) removed(key string, o *orphan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.lease != nil {
		o.lease.removed = true
	}
	if s.orphans[key] == o && (s.isClosed() || time.Now().After(o.until)) {
		delete(s.orphans, key)
	}
}
