package natskv

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
)

// settle publishes an entry, and returns once the outcome is known: the server
// may store it although the call fails. The fence makes a repetition harmless.
// After the end of ctx it waits a little longer; if the outcome is unknown even
// then, the keep-alive or Shutdown removes an entry that no lease stands for.
func (l *lease) settle(ctx context.Context, entry *message, value []byte) (seq uint64, err error) {
	s := l.store
	if ctx.Err() != nil {
		return 0, stopped(ctx, nil)
	}
	lingering, cancel := s.linger(ctx)
	defer cancel()
	attempts := 0
	err = s.retry(lingering, func(ctx context.Context) error {
		attempts++
		ack, err := s.publish(ctx, entry)
		if err == nil {
			seq = ack.Sequence
		}
		if errors.Is(err, jetstream.ErrNoStreamResponse) { // the stream was deleted, or an election is under way
			if err := s.reopen(ctx); err != nil {
				return err
			}
		}
		return err
	})
	if isWrongSequence(err) && attempts > 1 {
		found, rerr := l.readSettled(lingering)
		if rerr != nil {
			err = rerr
		} else if found.owner() == l.owner && bytes.Equal(found.data, value) {
			return found.seq, nil // the acknowledgement of an earlier attempt was lost
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// An earlier attempt may still be stored.
	l.unsettled = l.unsettled || lingering.Err() != nil || err != nil && attempts > 1
	if lingering.Err() != nil {
		return 0, cmp.Or(stopped(ctx, err), discovery.ErrClosed)
	}
	return seq, err
}

// orphan has the entry removed that a failed Register may have left.
func (s *Store) orphan(l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !l.unsettled {
		return
	}
	s.orphans[l] = struct{}{}
	if s.keeper == nil && !s.closed && s.lost == nil {
		s.keeper = startKeeper(s)
	}
}

func (l *lease) readSettled(ctx context.Context) (found entry, err error) {
	err = l.store.retry(ctx, func(ctx context.Context) error {
		found, err = l.store.readEntry(ctx, l.key)
		return err
	})
	return found, err
}

// linger returns a context that ends a little later than ctx, or than the beginning
// of Shutdown.
func (s *Store) linger(ctx context.Context) (context.Context, context.CancelFunc) {
	lingering, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(min(settleTime, s.opt.TTL), cancel) })
	stopClosed := context.AfterFunc(s.life, func() { time.AfterFunc(settleTimeClosed, cancel) })
	return lingering, func() { stop(); stopClosed(); cancel() }
}
