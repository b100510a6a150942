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

	"github.com/dynplane/dynplane/internal/wait"
)

// checker compares the keys attached to the lease with the registered ones. A
// registered entry that is missing was taken over or lost; an attached one that is
// not registered is the remainder of a failed request.
type checker struct {
	store  *Store
	reads  patience
	writes patience // changed between rounds
	mended mended
}

// checkEntries checks the entries after heartbeats until a Shutdown begins.
func (s *Store) checkEntries(alive <-chan struct{}) {
	var report reporter
	c := checker{store: s}
	backoff := newBackoff()
	for {
		select {
		case <-alive:
		case <-s.life.Done():
			return
		}
		for {
			err := c.round(s.life)
			if s.isClosed() {
				return
			}
			if changed := report.changed(err); changed && err != nil {
				s.log.Warn("etcd: check of the registrations failed, retrying", "error", s.located(err))
			} else if changed {
				s.log.Info("etcd: check of the registrations recovered")
			}
			if err == nil {
				c.mended.report(s.log)
				backoff.Reset()
				break
			}
			if wait.Sleep(s.life, backoff.Next()) != nil {
				return
			}
		}
	}
}

// round does what is left to do. A round after one that failed therefore
// continues it.
func (c *checker) round(ctx context.Context) error {
	s := c.store
	s.mu.Lock() // before the request, so that its answer includes them
	leaseID, registered, orphans := s.leaseID, maps.Clone(s.leases), maps.Clone(s.orphans)
	s.mu.Unlock()
	if leaseID == clientv3.NoLease || len(registered) == 0 && len(orphans) == 0 {
		return nil
	}
	var attached map[string]bool
	refused := c.reads.request(ctx, func(ctx context.Context) (err error) {
		attached, err = c.attached(ctx, leaseID)
		return err
	})
	if errors.Is(refused, rpctypes.ErrLeaseNotFound) {
		return nil // the heartbeat replaces it
	}
	if refused != nil && !isRefusal(refused) {
		return refused
	}
	// If the role does not permit to read all of the keys, each entry is checked
	// by writing it.
	began := time.Now()
	err := c.recoverAll(ctx, leaseID, s.missing(leaseID, registered, attached))
	c.writes.observe(time.Since(began), err)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return errors.Join(refused, err, c.removeLeft(ctx, leaseID, registered, orphans, attached))
}

// attached returns the keys attached to the lease, which costs far less than a
// watch on each of them.
func (c *checker) attached(ctx context.Context, leaseID clientv3.LeaseID) (map[string]bool, error) {
	info, err := c.store.client.TimeToLive(ctx, leaseID, clientv3.WithAttachedKeys())
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

// missing returns the registrations that must be written again, or compared.
// attached is nil if it is not known.
func (s *Store) missing(leaseID clientv3.LeaseID, registered map[string]*lease, attached map[string]bool) []*lease {
	var missing []*lease
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, l := range registered {
		if attached[key] && !l.suspect && l.leaseID == leaseID {
			continue
		}
		if attached != nil && !attached[key] && l.leaseID == leaseID && s.leases[key] == l {
			l.lost = true
			l.Lose(errEntryLost)
		}
		missing = append(missing, l)
	}
	return missing
}

// removeLeft removes the entries that are attached but not registered, and forgets
// those orphans that are not attached.
func (c *checker) removeLeft(ctx context.Context, leaseID clientv3.LeaseID, registered map[string]*lease, orphans map[string]*orphan, attached map[string]bool) error {
	s := c.store
	left := map[string]*orphan{}
	for key := range attached {
		if registered[key] == nil {
			left[key] = orphans[key]
		}
	}
	for key, o := range orphans {
		if attached != nil && !attached[key] {
			s.removed(key, o)
		}
	}
	for key, recorded := range left {
		unlock := s.locks.tryLock(key)
		if unlock == nil { // it is being registered, or removed
			delete(left, key)
			continue
		}
		defer unlock()
		s.mu.Lock()
		if s.leases[key] != nil || s.orphans[key] != recorded {
			delete(left, key)
		} else if recorded == nil {
			left[key] = &orphan{leaseID: leaseID}
		}
		s.mu.Unlock()
	}
	if len(left) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.writes.get())
	defer cancel()
	return s.removeOrphans(ctx, s.client, left)
}

// recoverAll recovers entries that are not attached to the lease, many at once.
func (c *checker) recoverAll(ctx context.Context, leaseID clientv3.LeaseID, missing []*lease) error {
	return eachBatch(ctx, c.store.batches(missing), func(ctx context.Context, batch []*lease) error {
		var entries []*rewrite
		for _, l := range batch {
			unlock := c.store.locks.tryLock(l.key)
			if unlock == nil {
				continue // it is being written, or removed
			}
			defer unlock()
			if c.store.lease(l.key) == l {
				entries = append(entries, &rewrite{lease: l})
			}
		}
		return c.rewrite(ctx, leaseID, entries)
	})
}

// batches splits registrations into groups that fit into a transaction.
func (s *Store) batches(leases []*lease) [][]*lease {
	var out [][]*lease
	s.mu.Lock()
	defer s.mu.Unlock()
	size := 0
	for _, l := range leases {
		last := len(out) - 1
		size += len(l.key) + len(l.value)
		if last < 0 || len(out[last]) == opsPerTxn || size > bytesPerTxn {
			out, size = append(out, nil), len(l.key)+len(l.value)
			last++
		}
		out[last] = append(out[last], l)
	}
	return out
}

// rewrite is an entry to be written again.
type rewrite struct {
	lease    *lease
	expected int64 // the revision of the entry to replace; zero if there must be none
}

// rewrite writes entries again until none is left that is not as registered. It
// requires the locks of their keys.
func (c *checker) rewrite(ctx context.Context, leaseID clientv3.LeaseID, entries []*rewrite) error {
	s := c.store
	for len(entries) > 0 {
		var ops []clientv3.Op
		for _, e := range entries {
			ops = append(ops, clientv3.OpTxn(
				[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(e.lease.key), "=", e.expected)},
				[]clientv3.Op{clientv3.OpPut(e.lease.key, e.lease.value, clientv3.WithLease(leaseID))},
				[]clientv3.Op{clientv3.OpGet(e.lease.key)}, // with its value: a get of only the keys omits the lease
			))
		}
		sent := time.Now()
		request, cancel := context.WithTimeout(ctx, c.writes.get())
		resp, err := s.client.Txn(request).Then(ops...).Commit()
		cancel()
		if isRefusal(err) {
			return c.refuse(ctx, leaseID, entries, err)
		}
		if err != nil {
			return fmt.Errorf("register %s again: %w", entries[0].lease.key, err)
		}
		var again []*rewrite
		for i, e := range entries {
			if c.settle(e, leaseID, resp.Responses[i].GetResponseTxn(), resp.Header.Revision, sent) {
				continue
			}
			again = append(again, e)
		}
		entries = again
	}
	return nil
}

// settle reads the result of writing an entry. It reports whether that is done.
func (c *checker) settle(e *rewrite, leaseID clientv3.LeaseID, resp txnResponse, revision int64, sent time.Time) bool {
	l, s := e.lease, c.store
	if resp.GetSucceeded() {
		s.mu.Lock()
		defer s.mu.Unlock()
		l.written(leaseID, revision, sent)
		c.mended.add(l.key)
		return true
	}
	e.expected = 0
	for _, kv := range resp.GetResponses()[0].GetResponseRange().GetKvs() {
		e.expected = kv.ModRevision
		if clientv3.LeaseID(kv.Lease) == leaseID && string(kv.Value) == l.value {
			s.mu.Lock()
			defer s.mu.Unlock()
			l.written(leaseID, kv.ModRevision, sent)
			return true
		}
		if l.mayReplace(kv) != nil {
			return true
		}
	}
	return false
}

// refuse handles a transaction that is refused. One entry is enough for that, so
// the transaction is divided before leases end.
func (c *checker) refuse(ctx context.Context, leaseID clientv3.LeaseID, entries []*rewrite, err error) error {
	s := c.store
	cause := fmt.Errorf("writing the entry again is refused: %w", s.located(err))
	s.mu.Lock()
	last := false
	for _, e := range entries {
		e.lease.Lose(cause)
		last = e.lease.refused.lasts(err, s.opt.TTL) || last
	}
	if last && len(entries) == 1 {
		entries[0].lease.end(cause)
		err = nil
	}
	s.mu.Unlock()
	if !last || len(entries) == 1 {
		return err
	}
	half := len(entries) / 2
	return errors.Join(c.rewrite(ctx, leaseID, slices.Clone(entries[:half])), c.rewrite(ctx, leaseID, slices.Clone(entries[half:])))
}
