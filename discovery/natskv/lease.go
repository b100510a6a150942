package natskv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
)

const (
	// settleTime is how long a call that ctx has ended waits for the outcome of a
	// write that it has sent, and settleTimeClosed is the same after Shutdown.
	settleTime       = 2 * time.Second
	settleTimeClosed = 500 * time.Millisecond
	// electionTime is how long a stream that exists may receive nothing.
	electionTime = 15 * time.Second
)

// lease is one registration: an entry, and the message scheduled to purge it.
// Calls that write its key hold the lock of the key.
type lease struct {
	*discovery.LeaseState
	store *Store
	key   string
	owner string // random; marks the entries that this lease wrote

	// Guarded by store.mu.
	value     []byte
	seq       uint64 // stream sequence of the entry
	removed   bool   // from the store, or another owner's
	unsettled bool   // the outcome of a write is unknown
}

func (s *Store) newLease(id discovery.ID, value []byte) *lease {
	return &lease{
		store: s, key: encodeKey(id), owner: strconv.FormatUint(discovery.NewInstanceID(), 16),
		value: value, LeaseState: discovery.NewLeaseState(time.Now()),
	}
}

// Register implements discovery.Store.
func (s *Store) Register(ctx context.Context, id discovery.ID, value []byte, o discovery.RegisterOptions) (discovery.Lease, error) {
	l := s.newLease(id, value)
	if err := checkKey(l.key); err != nil {
		return nil, err
	}
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	if err := s.checkSize(value); err != nil {
		return nil, err
	}
	unlock, err := s.keys.lock(ctx, l.key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := l.register(ctx, o.IfAbsent); err != nil {
		s.orphan(l)
		return nil, err
	}
	if err := s.keep(l); err != nil {
		return nil, err
	}
	s.awaitBucket(ctx, l.key, l.sequence())
	return l, nil
}

func (s *Store) checkSize(value []byte) error {
	if limit := s.nc.MaxPayload() - headerRoom; int64(len(value)) > limit && s.nc.IsConnected() {
		return fmt.Errorf("value of %d bytes: the server accepts %d (raise its max_payload): %w", len(value), limit, discovery.ErrUnstorable)
	}
	return nil
}

// register writes lease and entry. Once it has sent the entry it no longer ends
// with ctx at once: an entry that no lease stands for would stay for a TTL, and
// would have ended the registration of its former owner. At first it expects no
// entry, and only reads it if there is one.
func (l *lease) register(ctx context.Context, ifAbsent bool) error {
	var unreceived time.Time // when a write was first received by no stream
	read := ifAbsent
	return l.store.retry(ctx, func(attempt context.Context) error {
		fence, ttl := new(uint64), l.store.opt.TTL
		if read {
			found, err := l.store.readEntry(attempt, l.key)
			if err != nil {
				return err
			}
			taken := found.living() && found.owner() != l.owner
			if taken && ifAbsent {
				return discovery.ErrExists
			}
			if fence = &found.seq; taken { // the last one wins
				fence, ttl = nil, max(ttl, ownerTTL(found.header))
			}
		}
		at := time.Now()
		seq, err := l.write(ctx, attempt, fence, ttl)
		if errors.Is(err, jetstream.ErrNoStreamResponse) { // the stream was deleted, or an election is under way
			if unreceived.IsZero() {
				unreceived = time.Now()
			}
			if rerr := l.store.reopen(attempt); rerr != nil || time.Since(unreceived) > electionTime {
				return cmp.Or(rerr, fmt.Errorf("no stream receives %s, though %s exists: is the subject imported?",
					l.store.opt.entrySubject(l.key), l.store.opt.writeStream()))
			}
		}
		if isWrongSequence(err) {
			read = true
			return errContended
		}
		if err == nil {
			l.setSequence(seq, l.value)
			l.Beat(at)
			if ttl > l.store.opt.TTL {
				_, _ = l.store.publish(attempt, l.heartbeatMsg(seq)) // or by the first heartbeat
			}
		}
		return err
	})
}

// write publishes the lease and then the entry, and returns the sequence of
// the entry. In this order no entry is ever without a lease. With a fence it
// writes only if the entry's subject is still at that sequence; without one it
// takes over an existing entry, and ttl is at least that of its owner, whose lease
// must not end earlier if the second step fails. A heartbeat of the former owner in
// between would replace the new lease; the fence of the entry, which is on the lease,
// detects it. attempt bounds the first step.
func (l *lease) write(ctx, attempt context.Context, fence *uint64, ttl time.Duration) (uint64, error) {
	msg := l.leaseMsg(ttl)
	if fence != nil {
		expect(msg, l.store.opt.entrySubject(l.key), *fence)
	}
	ack, err := l.store.publish(attempt, msg)
	if err != nil {
		return 0, err
	}
	entry := l.entryMsg(l.value)
	expect(entry, msg.Subject, ack.Sequence)
	return l.settle(ctx, entry, l.value)
}

// keep hands a written lease to the keep-alive, which it starts if necessary. If
// Shutdown has begun, it will remove the entry. If the connection was closed for
// good, nothing prolongs the lease.
func (s *Store) keep(l *lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	former := s.leases[l.key]
	s.leases[l.key] = l
	if former != nil {
		former.removed = true
		former.End(discovery.ErrTakenOver)
	}
	if s.closed {
		return discovery.ErrClosed
	}
	if s.lost != nil {
		l.End(s.lost)
		return s.lost
	}
	if s.keeper == nil {
		s.keeper = startKeeper(s)
	}
	s.keeper.add(l)
	return nil
}

// Update implements discovery.Lease.
func (l *lease) Update(ctx context.Context, value []byte) error {
	s := l.store
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := s.checkSize(value); err != nil {
		return err
	}
	unlock, err := s.keys.lock(ctx, l.key)
	if err != nil {
		return err
	}
	defer unlock()
	for {
		if l.Ended() {
			return l.Wait(context.WithoutCancel(ctx))
		}
		seq := l.sequence()
		entry := l.entryMsg(value)
		expect(entry, entry.Subject, seq)
		written, err := l.settle(ctx, entry, value)
		if err == nil {
			l.setSequence(written, value)
			s.awaitBucket(ctx, l.key, written)
			return nil
		}
		if !isWrongSequence(err) {
			return err
		}
		// The entry is lost, another owner's, or ours with a lost acknowledgement.
		err = s.retry(ctx, func(ctx context.Context) error {
			_, err := l.recover(ctx)
			return err
		})
		if err != nil {
			return err
		}
	}
}

func (l *lease) sequence() uint64 {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	return l.seq
}

// setSequence records what was written, or found, at a sequence.
func (l *lease) setSequence(seq uint64, value []byte) {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.seq, l.value = seq, value
}

// Unregister implements discovery.Lease.
func (l *lease) Unregister(ctx context.Context) error {
	purged, err := l.remove(ctx)
	if purged != 0 {
		l.store.awaitBucket(ctx, l.key, purged)
	}
	return err
}

// remove is Unregister without the wait for the bucket. It returns the sequence of
// the purge, or zero if there was nothing to purge. The lease ends at once, so that
// nothing prolongs it after a failure.
func (l *lease) remove(ctx context.Context) (purged uint64, err error) {
	l.End(discovery.ErrClosed)
	unlock, err := l.store.keys.lock(ctx, l.key)
	if err == nil {
		defer unlock()
		purged, err = l.purge(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("%w; the entry is removed when its lease expires, within %v", err, l.store.opt.TTL)
	}
	return purged, nil
}

// purge removes the entry if this lease wrote it, unless that is done.
func (l *lease) purge(ctx context.Context) (purged uint64, err error) {
	s := l.store
	s.mu.Lock()
	removed, seq := l.removed, l.seq
	s.mu.Unlock()
	if removed {
		return 0, nil
	}
	err = s.retry(ctx, func(ctx context.Context) error {
		if seq != 0 { // zero: the outcome of the write is unknown
			ack, err := s.publish(ctx, l.purgeMsg(seq))
			if err == nil {
				purged = ack.Sequence
			}
			if err == nil || errors.Is(err, jetstream.ErrNoStreamResponse) && s.isGone(ctx) {
				return nil
			}
			if !isWrongSequence(err) {
				return err
			}
		}
		// The entry is another owner's, or deleted, or ours with a lost
		// acknowledgement.
		found, err := s.readEntry(ctx, l.key)
		if err != nil || found.owner() != l.owner || !found.living() {
			return err
		}
		seq = found.seq
		return errContended
	})
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l.removed = true
	delete(s.orphans, l)
	if s.leases[l.key] == l {
		delete(s.leases, l.key)
	}
	return purged, nil
}

// isGone reports whether the write stream was deleted, and all entries with it.
func (s *Store) isGone(ctx context.Context) bool {
	_, err := s.info(ctx, s.opt.writeStream())
	return errors.Is(err, jetstream.ErrStreamNotFound)
}
