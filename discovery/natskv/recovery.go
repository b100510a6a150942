package natskv

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

// recovery writes entries again that were lost, many at once and beside the
// heartbeats. Recovered leases get heartbeats again at once; those that fail are
// repeated.
type recovery struct {
	keeper  *keeper
	lost    []*lease
	since   time.Time // when the last loss was noticed
	at      time.Time // no recovery before
	running int
	written int    // entries that were written again, not yet logged
	example string // the key of one of them
	backoff wait.Backoff

	mu       sync.Mutex
	finished []recovered
}

type recovered struct {
	lease   *lease
	written bool
	err     error
}

// add takes a lease whose heartbeat was refused, since its entry is no longer at
// the same sequence.
func (r *recovery) add(b *heartbeat, now time.Time) {
	if b.lease.sequence() != b.seq { // the entry was updated meanwhile
		r.keeper.schedule(b.lease, now)
		return
	}
	r.lost, r.since = append(r.lost, b.lease), now
}

// step takes results and starts further recoveries. It waits for a measurement of
// the clock after the loss: a clock of the server that was set back loses leases
// too.
func (r *recovery) step(ctx context.Context, now time.Time) {
	k := r.keeper
	r.take(now)
	if len(r.lost) == 0 || now.Before(r.at) || k.failing != nil {
		return
	}
	if k.store.clock.measuredAt().Before(r.since) {
		k.check(ctx, now)
		return
	}
	for len(r.lost) > 0 && r.running < concurrency {
		l := r.lost[0]
		r.lost = r.lost[1:]
		r.running++
		k.tasks.Go(func() {
			written, err := l.recoverLocked(ctx)
			r.mu.Lock()
			r.finished = append(r.finished, recovered{l, written, err})
			r.mu.Unlock()
			k.wakeUp()
		})
	}
}

func (r *recovery) take(now time.Time) {
	r.mu.Lock()
	finished := r.finished
	r.finished = nil
	r.mu.Unlock()
	for _, f := range finished {
		r.running--
		switch {
		case f.lease.Ended():
		case f.err != nil:
			f.lease.Lose(f.err)
			r.lost = append(r.lost, f.lease)
			r.at = now.Add(r.backoff.Next())
			continue
		case f.written:
			r.written, r.example = r.written+1, f.lease.key
		}
		r.backoff.Reset()
		r.keeper.schedule(f.lease, now.Add(r.keeper.interval()))
	}
	if r.written > 0 && r.running == 0 && len(r.lost) == 0 {
		r.keeper.store.log.Warn("natskv: registrations were lost and have been written again", "count", r.written, "example", r.example)
		r.written = 0
	}
}

// recoverLocked is recover for a caller that does not hold the lock of the key. It
// repeats what fails for one TTL.
func (l *lease) recoverLocked(ctx context.Context) (written bool, err error) {
	s := l.store
	ctx, cancel := context.WithTimeout(ctx, s.opt.TTL)
	defer cancel()
	unlock, err := s.keys.lock(ctx, l.key)
	if err != nil {
		return false, err
	}
	defer unlock()
	err = s.retry(ctx, func(ctx context.Context) error {
		again, err := l.recover(ctx)
		written = written || again
		return err
	})
	return written, err
}

// recover finds out why an entry is no longer the one that this lease wrote, and
// writes it again if it was lost. It reports whether it did so.
func (l *lease) recover(ctx context.Context) (written bool, err error) {
	s := l.store
	var found entry // at first: none, which is right if the streams were lost
	for !l.Ended() {
		seq := found.seq
		at := time.Now()
		seq, err := l.write(ctx, ctx, &seq, s.opt.TTL)
		if err == nil {
			l.setSequence(seq, l.value)
			l.Beat(at)
			return true, nil
		}
		if !isWrongSequence(err) {
			return false, err
		}
		if found, err = s.readEntry(ctx, l.key); err != nil {
			return false, err
		}
		switch owner := found.owner(); {
		case !found.living():
			// Deleted.
		case owner == l.owner && bytes.Equal(found.data, l.value):
			// Our own write, whose acknowledgement was lost.
			l.setSequence(found.seq, l.value)
			return false, nil
		case owner == l.owner:
			// An update that was stored although it failed.
		case owner != "":
			s.log.Warn("natskv: another owner took over a registration; it is no longer kept alive here", "key", l.key, "owner", owner)
			s.release(l, discovery.ErrTakenOver)
			return false, nil
		default:
			s.log.Warn("natskv: a writer that holds no lease overwrote a registration", "key", l.key)
		}
	}
	return false, nil
}
