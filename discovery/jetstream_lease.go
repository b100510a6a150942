package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of the messages that make a lease. Those of NATS are documented with
// JetStream; nats.go has no names for all of them.
const (
	hdrOperation     = "KV-Operation"
	hdrSchedule      = "Nats-Schedule"
	hdrScheduleTo    = "Nats-Schedule-Target"
	hdrScheduleTTL   = "Nats-Schedule-TTL"
	hdrScheduler     = "Nats-Scheduler"
	hdrScheduleNext  = "Nats-Schedule-Next"
	hdrTTL           = "Nats-TTL"
	hdrExpectSeq     = "Nats-Expected-Last-Subject-Sequence"
	hdrExpectSubject = "Nats-Expected-Last-Subject-Sequence-Subject"
	hdrMarker        = "Nats-Marker-Reason"
	hdrOwner         = "Dynplane-Owner"
	hdrOwnerTTL      = "Dynplane-TTL" // milliseconds
)

// headerRoom is for the headers of an entry, which max_payload counts too.
const headerRoom = 4096

// leaseBody is the body of a lease, and so of the purge that the server
// publishes when it falls due. A purge without one was made on purpose.
type leaseBody struct {
	Deadline int64 `json:"deadline_ms"` // Unix, by the server's clock
	TTL      int64 `json:"ttl_ms"`
}

type jetStreamLease struct {
	*LeaseEnd
	store *JetStream
	key   string
	owner string // random, and on the entry: what bears it was written by us
	value []byte

	seq uint64 // of our entry in the stream; under store.mu
}

// entryMsg is the entry itself: written once a registration, and never by a
// heartbeat, since every write is an event to every watcher.
func (l *jetStreamLease) entryMsg() *nats.Msg {
	m := nats.NewMsg(l.store.entrySubject(l.key))
	m.Data = l.value
	m.Header.Set(hdrOwner, l.owner)
	m.Header.Set(hdrOwnerTTL, strconv.FormatInt(l.store.opt.TTL.Milliseconds(), 10))
	return m
}

// leaseMsg is the lease: an order to the server to purge the entry at a
// deadline. One that is published later replaces it.
func (l *jetStreamLease) leaseMsg() *nats.Msg {
	s := l.store
	deadline := s.clock.serverNow().Add(s.opt.TTL)
	m := nats.NewMsg(s.leaseSubject(l.key))
	// jetstream.WithScheduleAt would cut the deadline to whole seconds.
	m.Header.Set(hdrSchedule, "@at "+deadline.UTC().Format(time.RFC3339Nano))
	m.Header.Set(hdrScheduleTo, s.entrySubject(l.key))
	m.Header.Set(hdrScheduleTTL, markerTTL)
	m.Header.Set(hdrOperation, "PURGE")
	m.Data, _ = json.Marshal(leaseBody{deadline.UnixMilli(), s.opt.TTL.Milliseconds()})
	return m
}

// beatMsg prolongs the lease if the entry is still the one at seq.
func (l *jetStreamLease) beatMsg(seq uint64) *nats.Msg {
	m := l.leaseMsg()
	expect(m, l.store.entrySubject(l.key), seq)
	return m
}

// purgeMsg removes the entry on purpose and cancels its lease, in one.
func (l *jetStreamLease) purgeMsg(seq uint64) *nats.Msg {
	m := nats.NewMsg(l.store.entrySubject(l.key))
	m.Header.Set(hdrOperation, "PURGE")
	m.Header.Set(hdrScheduler, l.store.leaseSubject(l.key))
	m.Header.Set(hdrScheduleNext, "purge")
	m.Header.Set(hdrTTL, markerTTL)
	m.Header.Set(hdrExpectSeq, strconv.FormatUint(seq, 10))
	return m
}

// expect has the server refuse m unless the last message on subject is at seq
// (0: there is none).
func expect(m *nats.Msg, subject string, seq uint64) {
	m.Header.Set(hdrExpectSeq, strconv.FormatUint(seq, 10))
	if m.Subject != subject {
		m.Header.Set(hdrExpectSubject, subject)
	}
}

// Register implements Store.
func (s *JetStream) Register(ctx context.Context, id ID, value []byte) (Lease, error) {
	l := s.newLease(id, value)
	if err := checkKey(l.key); err != nil {
		return nil, err
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	if limit := s.nc.MaxPayload() - headerRoom; int64(len(value)) > limit {
		return nil, fmt.Errorf("value of %d bytes: the server takes %d (raise its max_payload)", len(value), limit)
	}
	var seq uint64
	err := retry(ctx, func(ctx context.Context) (err error) {
		seq, err = l.write(ctx, nil)
		if hasCode(err, errWrongSequence) { // another write came in between: try again, not in step with it
			if serr := sleep(ctx, rand.N(20*time.Millisecond)); serr != nil {
				return serr
			}
			return errContended
		}
		if errors.Is(err, jetstream.ErrNoStreamResponse) { // the bucket is gone, or an election is on
			if eerr := s.ensure(ctx); eerr != nil {
				return eerr
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.keep(l, seq); err != nil {
		return nil, errors.Join(err, l.purge(ctx, seq))
	}
	return l, nil
}

func (s *JetStream) newLease(id ID, value []byte) *jetStreamLease {
	return &jetStreamLease{
		store: s, key: encodeKey(id), owner: strconv.FormatUint(NewInstanceID(), 16),
		value: value, LeaseEnd: NewLeaseEnd(),
	}
}

// errContended is transient.
var errContended = fmt.Errorf("another writer registers the same id: %w", context.DeadlineExceeded)

// open makes sure of the bucket, once.
func (s *JetStream) open(ctx context.Context) error {
	s.mu.Lock()
	opened, closed := s.stop != nil, s.closed
	s.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if opened {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	return retry(ctx, func(ctx context.Context) error {
		err := s.ensure(ctx)
		if errors.Is(err, nats.ErrNoResponders) && s.nc.IsConnected() {
			err = fmt.Errorf("JetStream does not answer on %s; is it enabled (nats-server -js)?: %w", s.nc.ConnectedUrlRedacted(), err)
		}
		return err
	})
}

// write publishes the lease and then the entry, and returns the sequence of
// the entry. With a fence it writes only if the entry's subject is still at
// that sequence; else it takes over what is there. A former owner's heartbeat
// in between replaces our lease, which the entry's own fence notices.
func (l *jetStreamLease) write(ctx context.Context, fence *uint64) (uint64, error) {
	s := l.store
	lease := l.leaseMsg()
	if fence != nil {
		expect(lease, s.entrySubject(l.key), *fence)
	}
	ack, err := s.js.PublishMsg(ctx, lease, jetstream.WithRetryAttempts(0))
	if err != nil {
		return 0, err
	}
	entry := l.entryMsg()
	expect(entry, lease.Subject, ack.Sequence)
	ack, err = s.js.PublishMsg(ctx, entry, jetstream.WithRetryAttempts(0))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// keep hands a written lease to the keep-alive, which it starts if needed.
func (s *JetStream) keep(l *jetStreamLease, seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if former := s.leases[l.key]; former != nil {
		former.end(ErrTakenOver)
	}
	l.seq = seq
	s.leases[l.key] = l
	if s.stop == nil {
		ctx, cancel := context.WithCancel(context.Background())
		s.stop, s.stopped = cancel, make(chan struct{})
		go s.keepAlive(ctx)
	}
	return nil
}

// end is called under store.mu.
func (l *jetStreamLease) end(err error) {
	if l.store.leases[l.key] == l {
		delete(l.store.leases, l.key)
	}
	l.End(err)
}

// Unregister implements Lease.
func (l *jetStreamLease) Unregister(ctx context.Context) error {
	l.store.mu.Lock()
	ended, seq := l.Ended(), l.seq
	l.end(ErrClosed)
	l.store.mu.Unlock()
	if ended {
		return nil
	}
	return l.purge(ctx, seq)
}

// purge removes the entry from the bucket if it is ours.
func (l *jetStreamLease) purge(ctx context.Context, seq uint64) error {
	err := retry(ctx, func(ctx context.Context) error {
		_, err := l.store.js.PublishMsg(ctx, l.purgeMsg(seq), jetstream.WithRetryAttempts(0))
		if !hasCode(err, errWrongSequence) {
			return err
		}
		// Another's, gone, or written by us with the acknowledgement lost.
		now, header, err := l.store.readEntry(ctx, l.key)
		if err != nil || now == seq || header.Get(hdrOwner) != l.owner {
			return err
		}
		seq = now
		return errContended
	})
	if err != nil {
		return fmt.Errorf("%w; the entry goes when its lease runs out, within %v", err, l.store.opt.TTL)
	}
	return nil
}

// Shutdown implements Store. The connection stays open.
func (s *JetStream) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	first, stop := !s.closed, s.stop
	s.closed = true
	for w := range s.watchers {
		w.interrupt()
	}
	s.mu.Unlock()
	if stop != nil {
		stop()
		<-s.stopped
	}
	if !first {
		return nil
	}
	s.mu.Lock()
	leases := slices.Collect(maps.Values(s.leases))
	for _, l := range leases {
		l.end(ErrClosed)
	}
	s.mu.Unlock()
	err := each(leases, func(l *jetStreamLease) error { return l.purge(ctx, l.seq) })
	s.js.CleanupPublisher()
	return err
}
