package natskv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
)

// removeOrphans removes entries that failed calls may have left.
func (k *keeper) removeOrphans(ctx context.Context) {
	s := k.store
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.orphans {
		delete(s.orphans, l)
		k.tasks.Go(func() {
			l.End(discovery.ErrClosed)
			bounded, cancel := context.WithTimeout(ctx, s.opt.TTL)
			defer cancel()
			if err := l.Unregister(bounded); err != nil && ctx.Err() != nil {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.orphans[l] = struct{}{} // for Shutdown
			}
		})
	}
}

// review reports leases that may have expired, and ends those that can never be
// prolonged again.
func (k *keeper) review(now time.Time) {
	s := k.store
	final := k.finalError()
	for _, l := range s.registered() {
		age := now.Sub(l.LastBeat())
		if final != nil && age > s.opt.TTL*3/4 {
			l.End(final)
		} else if age > s.opt.TTL {
			l.Lose(fmt.Errorf("natskv: not prolonged for %v: %w", age.Round(time.Second), k.reason()))
		}
	}
}

func (k *keeper) reason() error {
	if k.failing != nil {
		return k.failing
	}
	return errNoAck
}

// finalError returns why the leases can never be prolonged again, or nil. A
// refusal from a time when heartbeats were acknowledged is not why.
func (k *keeper) finalError() error {
	if isFinal(k.failing) {
		return k.failing
	}
	err := k.store.heartbeatRefusal()
	if err == k.former || k.failing == nil && !k.probing { //nolint:errorlint // an equal error again is a new one
		return nil
	}
	return err
}

func isFinal(err error) bool {
	return errors.Is(err, ErrBucket) || errors.Is(err, nats.ErrPermissionViolation)
}

func (k *keeper) endAll(cause error) {
	s := k.store
	s.mu.Lock()
	s.lost = cause
	s.mu.Unlock()
	for _, l := range s.registered() {
		l.End(cause)
	}
}

// release ends a lease whose entry is another owner's.
func (s *Store) release(l *lease, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.End(cause)
	l.removed = true
	if s.leases[l.key] == l {
		delete(s.leases, l.key)
	}
}
