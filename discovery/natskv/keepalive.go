package natskv

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
)

const (
	// With three heartbeats per TTL, a stalled leader of a replicated stream
	// cost living owners their leases.
	heartbeatsPerTTL = 5
	// failingInterval is the interval while heartbeats fail.
	failingInterval = 250 * time.Millisecond
)

// keepAlive is the one goroutine that prolongs all leases of the store.
func (s *Store) keepAlive(ctx context.Context) {
	defer close(s.stopped)
	reconnected := s.nc.StatusChanged(nats.CONNECTED)
	defer s.nc.RemoveStatusListener(reconnected)
	k := keeper{store: s}
	timer := time.NewTimer(s.opt.TTL / heartbeatsPerTTL)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-reconnected: // at once: a lease may be about to expire
			k.unmeasured = heartbeatsPerTTL
		}
		timer.Reset(k.round(ctx))
	}
}

// keeper is the state of keepAlive.
type keeper struct {
	store      *Store
	unmeasured int  // rounds since the clock was measured
	failing    bool // and logged
	recovered  int  // registrations that were lost and written again, not yet logged
}

// round sends one heartbeat for every lease and returns the time until the
// next round.
func (k *keeper) round(ctx context.Context) time.Duration {
	s := k.store
	beats := s.sendHeartbeats()
	err := k.measure(ctx)
	lost, berr := s.awaitHeartbeats(ctx, beats)
	if err == nil {
		err = berr
	}
	if len(lost) > 0 {
		k.unmeasured = heartbeatsPerTTL // a server clock that was set back loses leases too
		rerr := k.measure(ctx)
		if rerr == nil {
			rerr = k.recoverAll(ctx, lost)
		}
		if err == nil {
			err = rerr
		}
	}
	if ctx.Err() != nil {
		return 0
	}
	k.report(err)
	interval := s.opt.TTL / heartbeatsPerTTL
	if err == nil || hasCode(err, errTooMany) {
		return interval
	}
	k.unmeasured = heartbeatsPerTTL
	return min(failingInterval, interval)
}

// measure measures the clock every few rounds and after each failure, while
// the acknowledgements of the heartbeats are on their way. It also detects a
// deleted bucket and creates it again.
func (k *keeper) measure(ctx context.Context) error {
	if k.unmeasured++; k.unmeasured < heartbeatsPerTTL {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, ackWait(k.store.opt.TTL))
	defer cancel()
	if err := k.store.ensure(ctx); err != nil {
		return err
	}
	k.unmeasured = 0
	return nil
}

func (k *keeper) report(err error) {
	if failing := err != nil; failing != k.failing {
		k.failing = failing
		if failing {
			k.store.log.Warn("natskv: keep-alive failed, retrying", "bucket", k.store.opt.Bucket, "error", err)
		} else {
			k.store.log.Info("natskv: keep-alive recovered", "bucket", k.store.opt.Bucket)
		}
	}
}

// ackWait bounds each wait of a round. A round has up to three of them, and
// every lease must be prolonged within its TTL.
func ackWait(ttl time.Duration) time.Duration {
	return min(ttl/4, 2*time.Second)
}

// heartbeat is one that was sent and may not be acknowledged yet.
type heartbeat struct {
	lease *lease
	ack   jetstream.PubAckFuture
	err   error
}

func (s *Store) sendHeartbeats() []heartbeat {
	s.mu.Lock()
	beats := make([]heartbeat, 0, len(s.leases))
	seqs := make([]uint64, 0, len(s.leases))
	for _, l := range s.leases {
		beats = append(beats, heartbeat{lease: l})
		seqs = append(seqs, l.seq)
	}
	s.mu.Unlock()
	for i := range beats {
		b := &beats[i]
		b.ack, b.err = s.js.PublishMsgAsync(b.lease.heartbeatMsg(seqs[i]), jetstream.WithRetryAttempts(0))
	}
	return beats
}

// awaitHeartbeats waits for the acknowledgements. It returns the leases whose
// entry is no longer the one they wrote, and one of the other failures.
func (s *Store) awaitHeartbeats(ctx context.Context, beats []heartbeat) (lost []*lease, failure error) {
	ctx, cancel := context.WithTimeout(ctx, ackWait(s.opt.TTL))
	defer cancel()
	for _, b := range beats {
		err := b.err
		if err == nil {
			select {
			case <-b.ack.Ok():
			case err = <-b.ack.Err():
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		if isWrongSequence(err) {
			lost = append(lost, b.lease)
		} else if err != nil {
			failure = fmt.Errorf("heartbeat of %s: %w", b.lease.key, err)
		}
	}
	return lost, failure
}

// recoverAll recovers leases whose entry was lost. The next round continues
// what does not finish in time, since recovered leases need their heartbeats.
// It logs one warning for all of them.
func (k *keeper) recoverAll(ctx context.Context, lost []*lease) error {
	var rewritten atomic.Int64
	ctx, cancel := context.WithTimeout(ctx, ackWait(k.store.opt.TTL))
	defer cancel()
	err := each(lost, func(l *lease) error {
		ok, err := l.recover(ctx)
		if ok {
			rewritten.Add(1)
		}
		return err
	})
	k.recovered += int(rewritten.Load())
	if err == nil && k.recovered > 0 {
		k.store.log.Warn("natskv: registrations were lost and have been written again", "count", k.recovered, "example", lost[0].key)
		k.recovered = 0
	}
	return err
}

// recover finds out why an entry is no longer the one that this lease wrote.
// It reports whether it wrote the entry again.
func (l *lease) recover(ctx context.Context) (rewritten bool, err error) {
	s := l.store
	for {
		seq, header, err := s.readEntry(ctx, l.key)
		if err != nil {
			return false, fmt.Errorf("read %s: %w", l.key, err)
		}
		owner := header.Get(hdrOwner)
		switch {
		case seq == 0 || isMarker(header):
			// Deleted.
		case owner == l.owner:
			// Our own write, whose acknowledgement was lost.
			l.setSequence(ctx, seq)
			return false, nil
		case owner != "":
			s.mu.Lock()
			if !l.Ended() {
				s.log.Warn("natskv: another owner took over a registration; it is no longer kept alive here", "key", l.key, "owner", owner)
				l.end(discovery.ErrTakenOver)
			}
			s.mu.Unlock()
			return false, nil
		default:
			s.log.Warn("natskv: a writer that holds no lease overwrote a registration", "key", l.key)
		}
		if l.Ended() {
			return false, nil
		}
		written, err := l.write(ctx, &seq)
		if err == nil {
			l.setSequence(ctx, written)
			return true, nil
		}
		if !isWrongSequence(err) {
			return false, fmt.Errorf("register %s again: %w", l.key, err)
		}
	}
}

// setSequence records the new sequence of the entry. If the lease has been
// unregistered meanwhile, it removes the entry again.
func (l *lease) setSequence(ctx context.Context, seq uint64) {
	l.store.mu.Lock()
	ended := l.Ended()
	l.seq = seq
	l.store.mu.Unlock()
	if ended {
		if err := l.purge(ctx, seq); err != nil {
			l.store.log.Warn("natskv: an unregistered entry stays until its lease expires", "key", l.key, "error", err)
		}
	}
}

// each calls do for all leases, a few at a time, and returns one of the errors
// and their number.
func each(leases []*lease, do func(*lease) error) error {
	const concurrency = 16
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed int
		last   error
		next   = make(chan *lease)
	)
	for range min(concurrency, len(leases)) {
		wg.Go(func() {
			for l := range next {
				if err := do(l); err != nil {
					mu.Lock()
					failed, last = failed+1, err
					mu.Unlock()
				}
			}
		})
	}
	for _, l := range leases {
		next <- l
	}
	close(next)
	wg.Wait()
	if failed > 1 {
		return fmt.Errorf("%d of %d registrations: %w", failed, len(leases), last)
	}
	return last
}
