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
	beatsPerTTL = 3
	// A watcher holds a removal that a disturbance may have caused for 10 s.
	// With longer leases, too, an owner must notice within that time that it
	// has to register again.
	longestBeat = 3 * time.Second
	failingBeat = 250 * time.Millisecond
	atOnce      = 16 // entries that are written again at the same time
)

// keepAlive is the one goroutine that prolongs the lease of the store and looks
// after what hangs on it.
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
			timer.Reset(failingBeat)
		}
	}
}

// keeper is the state of keepAlive.
type keeper struct {
	store   *Store
	failing bool   // and said so
	again   int    // registrations that were lost and are there again, not yet said
	one     string // of their keys
}

func (k *keeper) interval() time.Duration { return min(k.store.opt.TTL/beatsPerTTL, longestBeat) }

func (k *keeper) report(err error) {
	if failing := err != nil; failing != k.failing {
		k.failing = failing
		if failing {
			k.store.log.Warn("etcd: registrations cannot be kept alive; trying on", "error", k.store.failed(err))
		} else {
			k.store.log.Info("etcd: registrations are kept alive again")
		}
	}
}

// round prolongs the lease and compares what hangs on it with what should: an
// entry that is missing was taken over or lost, and one too many is what a
// failed request has left.
func (k *keeper) round(ctx context.Context) error {
	s := k.store
	ctx, cancel := context.WithTimeout(ctx, max(s.opt.TTL/2, time.Second))
	defer cancel()
	lease := s.currentLease()
	wanted := s.registered() // before the question, so that the answer knows them
	attached, err := s.prolong(ctx, lease)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		lease, err = s.leaseOtherThan(ctx, lease)
	}
	if err != nil {
		return err
	}
	var missing []*entry
	for key, e := range wanted {
		if !attached[key] {
			missing = append(missing, e)
		}
		delete(attached, key)
	}
	if err := k.recoverAll(ctx, lease, missing); err != nil {
		return err
	}
	for key := range attached {
		if err := s.clear(ctx, lease, key); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) registered() map[string]*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.entries)
}

// prolong returns the keys that hang on the lease, which is far cheaper than a
// watch on each of them.
func (s *Store) prolong(ctx context.Context, lease clientv3.LeaseID) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, min(s.opt.TTL/4, 2*time.Second))
	defer cancel()
	if _, err := s.client.KeepAliveOnce(ctx, lease); err != nil {
		return nil, err
	}
	info, err := s.client.TimeToLive(ctx, lease, clientv3.WithAttachedKeys())
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

// recoverAll looks after entries that do not hang on the lease. It warns once
// for all.
func (k *keeper) recoverAll(ctx context.Context, lease clientv3.LeaseID, missing []*entry) error {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed error
		slots  = make(chan struct{}, atOnce)
	)
	for _, e := range missing {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			again, err := e.recover(ctx, lease)
			mu.Lock()
			defer mu.Unlock()
			if again {
				k.again, k.one = k.again+1, e.key
			}
			if err != nil {
				failed = fmt.Errorf("register %s again: %w", e.key, err)
			}
		})
	}
	wg.Wait()
	if failed == nil && k.again > 0 {
		k.store.log.Warn("etcd: registrations were lost and are registered again", "count", k.again, "one", k.one)
		k.again = 0
	}
	return failed
}

// recover finds out what became of an entry that does not hang on our lease,
// and returns whether it wrote it again.
func (e *entry) recover(ctx context.Context, lease clientv3.LeaseID) (again bool, err error) {
	s := e.store
	var seen int64 // the revision of the entry that may be overwritten; none
	for !e.Ended() {
		resp, err := s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(e.key), "=", seen)).
			Then(clientv3.OpPut(e.key, e.value, clientv3.WithLease(lease))).
			Else(clientv3.OpGet(e.key)). // keys alone would come without their leases
			Commit()
		if err != nil {
			return false, err
		}
		if resp.Succeeded {
			return true, e.rewritten(ctx, lease)
		}
		seen = 0
		for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
			seen = kv.ModRevision
			switch clientv3.LeaseID(kv.Lease) {
			case lease: // written by us, with the answer lost
				return false, e.rewritten(ctx, lease)
			case clientv3.NoLease:
				s.log.Warn("etcd: a foreign writer overwrote a registration", "key", e.key)
			default:
				if !e.wasUnder(kv.Lease) {
					e.takenOver(kv.Lease)
					return false, nil
				}
			}
		}
	}
	return false, nil
}

// wasUnder reports whether we wrote the entry under the lease: a store that was
// restored from a backup may still have it.
func (e *entry) wasUnder(lease int64) bool {
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	return e.lease == clientv3.LeaseID(lease)
}

func (e *entry) takenOver(lease int64) {
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	if !e.Ended() {
		e.store.log.Warn("etcd: another owner took a registration over; it is not kept alive here any more",
			"key", e.key, "lease", fmt.Sprintf("%x", lease))
		e.end(discovery.ErrTakenOver)
	}
}

// rewritten notes the new lease of the entry. If it was given back meanwhile,
// what was written is taken back.
func (e *entry) rewritten(ctx context.Context, lease clientv3.LeaseID) error {
	e.store.mu.Lock()
	ended := e.Ended() && e.store.entries[e.key] == nil
	e.lease = lease
	e.store.mu.Unlock()
	if ended {
		return e.store.remove(ctx, e)
	}
	return nil
}

// clear removes what hangs on our lease though it is not registered: its
// registration or its removal failed half-way.
func (s *Store) clear(ctx context.Context, lease clientv3.LeaseID, key string) error {
	resp, err := s.client.Get(ctx, key)
	if err != nil || len(resp.Kvs) == 0 || resp.Kvs[0].Lease != int64(lease) {
		return err
	}
	// Whoever begins to register the key from here on changes its revision.
	s.mu.Lock()
	wanted := s.entries[key] != nil || s.pending[key] > 0
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
