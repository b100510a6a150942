package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// write is one write of an entry under the etcd lease of the store. It replaces
// only the entry that it expects. If it finds another one, it decides by replace,
// and expects that one. It therefore records what it has replaced, and recognizes
// its own entry after a request that got no answer.
type write struct {
	key, value string
	absent     string // a key that must not exist; empty if any may
	// expected is the revision of the entry to replace; zero if there must be none.
	expected int64
	// replace returns an error if the entry that was found must stay.
	replace func(*mvccpb.KeyValue) error

	// The result:
	replaced  *mvccpb.KeyValue // the entry that was found and replaced; nil if there was none
	leaseID   clientv3.LeaseID
	revision  int64     // of the entry as written
	sent      time.Time // when the request was sent that wrote it
	uncertain bool      // a request got no answer: it may have been executed, or may be later
}

// put executes a write. Once a request has been sent, put waits for the answer
// although ctx is done, for a while, and succeeds if the request has.
func (s *Store) put(ctx context.Context, w *write) error {
	requests, cancel := s.detach(ctx)
	defer cancel()
	lost := clientv3.NoLease
	err := s.retryDetached(ctx, requests, func(request context.Context) error {
		leaseID, err := s.ensureLease(request, lost)
		if err != nil {
			return err
		}
		w.leaseID = leaseID
		err = w.attempt(ctx, request, s.client)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			lost, err, w.uncertain = leaseID, errLeaseLost, false // the entry was lost with the lease
		}
		return err
	})
	if err != nil && w.uncertain && w.wasExecuted(requests, s.client) {
		return nil
	}
	return err
}

// attempt sends requests until one has written the entry, or there is an error, or
// ctx is done although no request may have written it.
func (w *write) attempt(ctx, request context.Context, client clientv3.KV) error {
	for {
		if err := ctx.Err(); err != nil && !w.uncertain {
			return err
		}
		condition := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(w.key), "=", w.expected)}
		// With their values: a get of only the keys omits the lease.
		found := []clientv3.Op{clientv3.OpGet(w.key)}
		if w.absent != "" {
			condition = append(condition, clientv3.Compare(clientv3.ModRevision(w.absent), "=", 0))
			found = append(found, clientv3.OpGet(w.absent))
		}
		w.sent = time.Now()
		resp, err := client.Txn(request).If(condition...).
			Then(clientv3.OpPut(w.key, w.value, clientv3.WithLease(w.leaseID))).
			Else(found...).Commit()
		if err != nil {
			w.uncertain = w.uncertain || mayHaveBeenExecuted(err)
			return err
		}
		if resp.Succeeded {
			w.revision, w.uncertain = resp.Header.Revision, false
			return nil
		}
		if len(resp.Responses) > 1 {
			for _, kv := range resp.Responses[1].GetResponseRange().Kvs {
				if err := w.replace(kv); err != nil {
					return err
				}
			}
		}
		done, err := w.resolve(resp.Responses[0].GetResponseRange().Kvs)
		if done || err != nil {
			return err
		}
	}
}

// resolve adapts the write to the entry that exists, of which there is at most
// one. It reports whether that is its own already.
func (w *write) resolve(found []*mvccpb.KeyValue) (done bool, err error) {
	if len(found) == 0 {
		w.expected, w.replaced = 0, nil
		return false, nil
	}
	kv := found[0]
	if w.isOwn(kv) {
		w.revision, w.uncertain = kv.ModRevision, false
		return true, nil
	}
	w.expected, w.replaced = kv.ModRevision, kv
	return false, w.replace(kv)
}

// isOwn reports whether an entry was written by a request that got no answer.
func (w *write) isOwn(kv *mvccpb.KeyValue) bool {
	return w.uncertain && clientv3.LeaseID(kv.Lease) == w.leaseID && string(kv.Value) == w.value
}

// wasExecuted reads the entry after a request that got no answer.
func (w *write) wasExecuted(ctx context.Context, client clientv3.KV) bool {
	ctx, cancel := context.WithTimeout(ctx, minRequestTimeout)
	defer cancel()
	resp, err := client.Get(ctx, w.key)
	if err != nil || len(resp.Kvs) == 0 || !w.isOwn(resp.Kvs[0]) {
		return false
	}
	w.revision, w.uncertain = resp.Kvs[0].ModRevision, false
	return true
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
	sent := time.Now()
	granted, err := s.client.Grant(ctx, int64(s.opt.TTL.Seconds()))
	if err != nil {
		return clientv3.NoLease, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaseID, s.acked = granted.ID, sent
	return s.leaseID, nil
}

// currentLease returns NoLease before the first registration.
func (s *Store) currentLease() clientv3.LeaseID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaseID
}

// unstorable marks errors of values that etcd never accepts.
func unstorable(err error) error {
	if errors.Is(err, rpctypes.ErrRequestTooLarge) {
		return fmt.Errorf("%w: %w", errUnstorable, err)
	}
	return err
}
