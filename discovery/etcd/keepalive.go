package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/internal/wait"
)

const (
	heartbeatsPerTTL = 3
	// maxInterval bounds the interval for long TTLs. A watcher holds a removal
	// that a fault may have caused for 10 s, and within that time an
	// owner must notice that its entries are lost.
	maxInterval = 3 * time.Second
)

// startKeepAlive starts the two goroutines of the keep-alive, unless they run:
// one sends heartbeats, and the other one recovers entries, which takes longer.
// It requires store.mu.
func (s *Store) startKeepAlive() {
	if s.keepAlive || s.isClosed() {
		return
	}
	s.keepAlive = true
	alive := make(chan struct{}, 1)
	s.running.Go(func() { s.sendHeartbeats(alive) })
	s.running.Go(func() { s.checkEntries(alive) })
}

// sendHeartbeats prolongs the etcd lease of the store until a Shutdown begins.
// After each success it sends on alive.
func (s *Store) sendHeartbeats(alive chan<- struct{}) {
	var report reporter
	var refused refusal
	backoff := newBackoff()
	pause := s.interval()
	for wait.Sleep(s.life, pause) == nil {
		err := s.heartbeat(s.life)
		if s.isClosed() {
			return
		}
		if changed := report.changed(err); changed && err != nil {
			s.log.Warn("etcd: keep-alive failed, retrying", "error", s.located(err))
		} else if changed {
			s.log.Info("etcd: keep-alive recovered")
		}
		if err == nil {
			refused = refusal{}
			backoff.Reset()
			pause = s.interval()
			select {
			case alive <- struct{}{}:
			default:
			}
			continue
		}
		s.loseStale(s.located(err))
		if refused.lasts(err, s.opt.TTL) {
			s.giveUp(s.located(err))
		}
		pause = min(backoff.Next(), s.interval())
	}
}

func (s *Store) interval() time.Duration { return min(s.opt.TTL/heartbeatsPerTTL, maxInterval) }

// heartbeat prolongs the lease, or replaces it if it is lost.
func (s *Store) heartbeat(ctx context.Context) error {
	s.mu.Lock()
	leaseID, left := s.leaseID, time.Until(s.acked.Add(s.opt.TTL))
	s.mu.Unlock()
	if leaseID == clientv3.NoLease {
		return nil
	}
	// Half a TTL, so that there is time for another member; but not past the
	// moment at which the entries may have expired.
	timeout := s.opt.TTL / 2
	if left > 0 {
		timeout = max(min(timeout, left), 250*time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	sent := time.Now()
	err := prolong(ctx, s.client, leaseID)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		s.leaseLost(leaseID)
		_, err = s.ensureLease(ctx, leaseID)
		return err
	}
	if err == nil {
		s.beat(leaseID, sent)
	}
	return err
}

// prolong sends one heartbeat. The client's KeepAliveOnce would send it again and
// again, without a pause, while there is no connection.
func prolong(ctx context.Context, client *clientv3.Client, leaseID clientv3.LeaseID) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := etcdserverpb.NewLeaseClient(client.ActiveConnection()).LeaseKeepAlive(ctx)
	if err == nil {
		err = stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: int64(leaseID)})
	}
	var resp *etcdserverpb.LeaseKeepAliveResponse
	if err == nil || errors.Is(err, context.Canceled) {
		resp, err = stream.Recv()
	}
	if err != nil {
		return clientv3.ContextError(ctx, err)
	}
	if resp.TTL <= 0 {
		return rpctypes.ErrLeaseNotFound
	}
	return nil
}

// beat records a heartbeat that was acknowledged.
func (s *Store) beat(leaseID clientv3.LeaseID, sent time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if leaseID != s.leaseID {
		return
	}
	s.acked = sent
	for _, l := range s.leases {
		if l.leaseID == leaseID && !l.lost {
			l.Beat(sent)
		}
	}
}

var (
	errLeaseExpired = errors.New("the lease has expired; the entry is being written again")
	errEntryLost    = errors.New("the entry is lost; it is being written again")
)

// leaseLost records that an etcd lease, and the entries attached to it, are lost.
func (s *Store) leaseLost(leaseID clientv3.LeaseID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.leases {
		if l.leaseID == leaseID {
			l.lost = true
			l.Lose(errLeaseExpired)
		}
	}
}

// loseStale records that all entries may have expired, if no heartbeat has been
// acknowledged for a TTL.
func (s *Store) loseStale(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.acked) < s.opt.TTL {
		return
	}
	for _, l := range s.leases {
		l.Lose(fmt.Errorf("no heartbeat has been acknowledged for %v: %w", s.opt.TTL, err))
	}
}

// giveUp ends all leases, because etcd refuses heartbeats. The entries expire.
func (s *Store) giveUp(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaseID = clientv3.NoLease // the next registration requests another one
	for _, l := range s.leases {
		l.end(fmt.Errorf("the keep-alive is refused: %w", err))
	}
}

// refusal is the time since which requests are refused. Permissions may be
// changed in several steps, so a refusal ends a lease only once it has lasted for
// half a TTL: the owner then learns of it within one.
type refusal struct{ since time.Time }

// lasts records the error of a request, and reports whether requests have been
// refused for long.
func (r *refusal) lasts(err error, ttl time.Duration) bool {
	if !isRefusal(err) {
		return false
	}
	if r.since.IsZero() {
		r.since = time.Now()
	}
	return time.Since(r.since) >= ttl/2
}
