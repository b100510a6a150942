package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
)

const (
	heartbeatsPerTTL = 3
	// maxInterval bounds the interval for long TTLs. A watcher holds a removal
	// that a fault may have caused for 10 s, and within that time an
	// owner must notice that its entries are lost.
	maxInterval = 3 * time.Second
	// failingInterval is the interval while heartbeats fail.
	failingInterval = 250 * time.Millisecond
	// recoverConcurrency bounds the entries that are written again at once.
	recoverConcurrency = 16
)

// keepAlive is the one goroutine that prolongs the etcd lease of the store and
// recovers the entries attached to it.
func (s *Store) keepAlive(ctx context.Context) {
	defer close(s.stopped)
	k := keeper{store: s}
	timer := time.NewTimer(k.interval())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := k.round(ctx)
		if ctx.Err() != nil {
			return
		}
		k.report(err)
		if err == nil {
			timer.Reset(k.interval())
		} else {
			timer.Reset(failingInterval)
		}
	}
}

// keeper is the state of keepAlive.
type keeper struct {
	store     *Store
	failing   bool   // and logged
	recovered int    // entries that were lost and written again, not yet logged
	example   string // the key of one of them
}

func (k *keeper) interval() time.Duration {
	return min(k.store.opt.TTL/heartbeatsPerTTL, maxInterval)
}

// report logs the first failure and the first success after it.
func (k *keeper) report(err error) {
	if failing := err != nil; failing != k.failing {
		k.failing = failing
		if failing {
			k.store.log.Warn("etcd: keep-alive failed, retrying", "error", k.store.located(err))
		} else {
			k.store.log.Info("etcd: keep-alive recovered")
		}
	}
}

// round prolongs the lease and compares the keys attached to it with the
// registered ones. A registered entry that is missing was taken over or lost; an
// attached one that is not registered is the remainder of a failed request.
func (k *keeper) round(ctx context.Context) error {
	s := k.store
	ctx, cancel := context.WithTimeout(ctx, max(s.opt.TTL/2, time.Second))
	defer cancel()
	leaseID := s.currentLease()
	registered := s.registered() // before the request, so that its answer includes them
	attached, err := s.prolong(ctx, leaseID)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		leaseID, err = s.ensureLease(ctx, leaseID)
	}
	if err != nil {
		return err
	}
	var missing []*lease
	for key, l := range registered {
		if !attached[key] {
			missing = append(missing, l)
		}
		delete(attached, key)
	}
	if err := k.recoverAll(ctx, leaseID, missing); err != nil {
		return err
	}
	for orphan := range attached {
		if err := s.removeOrphan(ctx, leaseID, orphan); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) registered() map[string]*lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.leases)
}

// prolong sends the heartbeat and returns the keys attached to the lease, which
// costs far less than a watch on each of them.
func (s *Store) prolong(ctx context.Context, leaseID clientv3.LeaseID) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, min(s.opt.TTL/4, 2*time.Second))
	defer cancel()
	if _, err := s.client.KeepAliveOnce(ctx, leaseID); err != nil {
		return nil, err
	}
	info, err := s.client.TimeToLive(ctx, leaseID, clientv3.WithAttachedKeys())
	if err != nil {
		return nil, err
	}
	if info.TTL < 0 {
		return nil, rpctypes.ErrLeaseNotFound
	}
	keys := make(map[string]bool, len(info.Keys))
	for _, key := range info.Keys {
		keys[string(key)] = true
	}
	return keys, nil
}

// recoverAll recovers entries that are not attached to the lease. It logs one
// warning for all of them.
func (k *keeper) recoverAll(ctx context.Context, leaseID clientv3.LeaseID, missing []*lease) error {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed error
		slots  = make(chan struct{}, recoverConcurrency)
	)
	for _, l := range missing {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			rewritten, err := l.recover(ctx, leaseID)
			mu.Lock()
			defer mu.Unlock()
			if rewritten {
				k.recovered, k.example = k.recovered+1, l.key
			}
			if err != nil {
				failed = fmt.Errorf("register %s again: %w", l.key, err)
			}
		})
	}
	wg.Wait()
	if failed == nil && k.recovered > 0 {
		k.store.log.Warn("etcd: registrations were lost and have been written again", "count", k.recovered, "example", k.example)
		k.recovered = 0
	}
	return failed
}

// recover finds out why an entry is not attached to the lease. It reports
// whether it wrote the entry again.
func (l *lease) recover(ctx context.Context, leaseID clientv3.LeaseID) (rewritten bool, err error) {
	s := l.store
	var revision int64 // of the entry to overwrite; zero if there must be none
	for !l.Ended() {
		resp, err := s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(l.key), "=", revision)).
			Then(clientv3.OpPut(l.key, l.value, clientv3.WithLease(leaseID))).
			Else(clientv3.OpGet(l.key)). // with its value: a get of only the keys omits the lease
			Commit()
		if err != nil {
			return false, err
		}
		if resp.Succeeded {
			return true, l.setLeaseID(ctx, leaseID)
		}
		revision = 0
		for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
			revision = kv.ModRevision
			switch clientv3.LeaseID(kv.Lease) {
			case leaseID:
				// Our own write, whose response was lost.
				return false, l.setLeaseID(ctx, leaseID)
			case clientv3.NoLease:
				s.log.Warn("etcd: a writer that holds no lease overwrote a registration", "key", l.key)
			default:
				if !l.wroteUnder(kv.Lease) {
					l.takenOver(kv.Lease)
					return false, nil
				}
			}
		}
	}
	return false, nil
}

// wroteUnder reports whether this owner wrote the entry under a former lease,
// which a store that was restored from a backup may still contain.
func (l *lease) wroteUnder(leaseID int64) bool {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	return l.leaseID == clientv3.LeaseID(leaseID)
}

func (l *lease) takenOver(leaseID int64) {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	if !l.Ended() {
		l.store.log.Warn("etcd: another owner took over a registration; it is no longer kept alive here",
			"key", l.key, "lease", fmt.Sprintf("%x", leaseID))
		l.end(discovery.ErrTakenOver)
	}
}

// setLeaseID records the lease to which the entry is attached now. If the
// registration has been unregistered meanwhile, it removes the entry again.
func (l *lease) setLeaseID(ctx context.Context, leaseID clientv3.LeaseID) error {
	l.store.mu.Lock()
	ended := l.Ended() && l.store.leases[l.key] == nil
	l.leaseID = leaseID
	l.store.mu.Unlock()
	if ended {
		return l.store.remove(ctx, l)
	}
	return nil
}

// removeOrphan removes an entry that is attached to the lease but not
// registered: its registration or removal failed half-way.
func (s *Store) removeOrphan(ctx context.Context, leaseID clientv3.LeaseID, key string) error {
	resp, err := s.client.Get(ctx, key)
	if err != nil || len(resp.Kvs) == 0 || resp.Kvs[0].Lease != int64(leaseID) {
		return err
	}
	// A registration that begins after this check changes the revision of the
	// key, and the transaction then does nothing.
	s.mu.Lock()
	wanted := s.leases[key] != nil || s.pending[key] > 0
	s.mu.Unlock()
	if wanted {
		return nil
	}
	_, err = s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", resp.Kvs[0].ModRevision)).
		Then(clientv3.OpDelete(key)).
		Commit()
	return err
}
