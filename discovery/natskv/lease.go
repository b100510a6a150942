package natskv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

// Headers for which nats.go exports no constant.
const (
	hdrOperation = "KV-Operation"
	hdrOwner     = "Dynplane-Owner"
	hdrOwnerTTL  = "Dynplane-TTL" // milliseconds
)

const (
	// markerTTL is how long the marker of a deleted entry stays in the bucket.
	markerTTL = "1h"
	// headerRoom is for the headers of an entry, which count towards
	// max_payload.
	headerRoom = 4096
)

// leaseBody is the body of a lease, and therefore of the purge that the server
// publishes at its deadline. An intentional purge has no body.
type leaseBody struct {
	Deadline int64 `json:"deadline_ms"` // Unix time of the server
	TTL      int64 `json:"ttl_ms"`
}

// lease is one registration: an entry, and the message scheduled to purge it.
type lease struct {
	*discovery.LeaseState
	store *Store
	key   string
	owner string // random; marks the entries that this lease wrote
	value []byte

	seq uint64 // stream sequence of the entry; guarded by store.mu
}

// Register implements discovery.Store.
func (s *Store) Register(ctx context.Context, id discovery.ID, value []byte, _ discovery.RegisterOptions) (discovery.Lease, error) {
	l := s.newLease(id, value)
	if err := checkKey(l.key); err != nil {
		return nil, err
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	if limit := s.nc.MaxPayload() - headerRoom; int64(len(value)) > limit {
		return nil, fmt.Errorf("value of %d bytes: the server accepts %d (raise its max_payload)", len(value), limit)
	}
	var seq uint64
	err := retry(ctx, func(ctx context.Context) (err error) {
		seq, err = l.write(ctx, nil)
		if isWrongSequence(err) { // another write came in between; a random pause breaks the step
			if serr := wait.Sleep(ctx, rand.N(20*time.Millisecond)); serr != nil {
				return serr
			}
			return errContended
		}
		if errors.Is(err, jetstream.ErrNoStreamResponse) { // the bucket was deleted, or an election is under way
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

func (s *Store) newLease(id discovery.ID, value []byte) *lease {
	return &lease{
		store: s, key: encodeKey(id), owner: strconv.FormatUint(discovery.NewInstanceID(), 16),
		value: value, LeaseState: discovery.NewLeaseState(time.Now()),
	}
}

// errContended is transient.
var errContended = fmt.Errorf("another writer registers the same id: %w", context.DeadlineExceeded)

// write publishes the lease and then the entry, and returns the sequence of
// the entry. In this order no entry is ever without a lease. With a fence it
// writes only if the entry's subject is still at that sequence; without one it
// takes over an existing entry. A heartbeat of the former owner in between
// would replace the new lease; the fence of the entry, which is on the lease,
// detects it.
func (l *lease) write(ctx context.Context, fence *uint64) (uint64, error) {
	msg := l.leaseMsg()
	if fence != nil {
		expect(msg, l.store.opt.entrySubject(l.key), *fence)
	}
	ack, err := l.store.publish(ctx, msg)
	if err != nil {
		return 0, err
	}
	entry := l.entryMsg()
	expect(entry, msg.Subject, ack.Sequence)
	if ack, err = l.store.publish(ctx, entry); err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

func (s *Store) publish(ctx context.Context, m *nats.Msg) (*jetstream.PubAck, error) {
	return s.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
}

// entryMsg is the entry itself. It is written once for a registration and
// never by a heartbeat, since every write is an event for every watcher.
func (l *lease) entryMsg() *nats.Msg {
	m := nats.NewMsg(l.store.opt.entrySubject(l.key))
	m.Data = l.value
	m.Header.Set(hdrOwner, l.owner)
	m.Header.Set(hdrOwnerTTL, strconv.FormatInt(l.store.opt.TTL.Milliseconds(), 10))
	return m
}

// leaseMsg is the lease: a schedule by which the server purges the entry at
// the deadline. A later lease replaces an earlier one.
func (l *lease) leaseMsg() *nats.Msg {
	opt := l.store.opt
	deadline := l.store.clock.serverNow().Add(opt.TTL)
	m := nats.NewMsg(opt.leaseSubject(l.key))
	// jetstream.WithScheduleAt would truncate the deadline to whole seconds.
	m.Header.Set(jetstream.ScheduleHeader, "@at "+deadline.UTC().Format(time.RFC3339Nano))
	m.Header.Set(jetstream.ScheduleTargetHeader, opt.entrySubject(l.key))
	m.Header.Set(jetstream.ScheduleTTLHeader, markerTTL)
	m.Header.Set(hdrOperation, "PURGE")
	m.Data, _ = json.Marshal(leaseBody{deadline.UnixMilli(), opt.TTL.Milliseconds()})
	return m
}

// heartbeatMsg prolongs the lease if the entry is still the one at seq.
func (l *lease) heartbeatMsg(seq uint64) *nats.Msg {
	m := l.leaseMsg()
	expect(m, l.store.opt.entrySubject(l.key), seq)
	return m
}

// purgeMsg removes the entry intentionally and cancels its lease, in one step.
func (l *lease) purgeMsg(seq uint64) *nats.Msg {
	m := nats.NewMsg(l.store.opt.entrySubject(l.key))
	m.Header.Set(hdrOperation, "PURGE")
	m.Header.Set(jetstream.SchedulerHeader, l.store.opt.leaseSubject(l.key))
	m.Header.Set(jetstream.ScheduleNextHeader, "purge")
	m.Header.Set(jetstream.MsgTTLHeader, markerTTL)
	expect(m, m.Subject, seq)
	return m
}

// expect fences m: the server refuses it unless the last message on subject is
// at seq. Zero means that there must be none.
func expect(m *nats.Msg, subject string, seq uint64) {
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(seq, 10))
	if m.Subject != subject {
		m.Header.Set(jetstream.ExpectedLastSubjSeqSubjHeader, subject)
	}
}

// keep hands a written lease to the keep-alive, which it starts if necessary.
func (s *Store) keep(l *lease, seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return discovery.ErrClosed
	}
	if former := s.leases[l.key]; former != nil {
		former.end(discovery.ErrTakenOver)
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

// end requires store.mu.
func (l *lease) end(err error) {
	if l.store.leases[l.key] == l {
		delete(l.store.leases, l.key)
	}
	l.End(err)
}

// Unregister implements discovery.Lease.
func (l *lease) Unregister(ctx context.Context) error {
	l.store.mu.Lock()
	ended, seq := l.Ended(), l.seq
	l.end(discovery.ErrClosed)
	l.store.mu.Unlock()
	if ended {
		return nil
	}
	return l.purge(ctx, seq)
}

// purge removes the entry from the bucket if this lease wrote it.
func (l *lease) purge(ctx context.Context, seq uint64) error {
	err := retry(ctx, func(ctx context.Context) error {
		_, err := l.store.publish(ctx, l.purgeMsg(seq))
		if !isWrongSequence(err) {
			return err
		}
		// The entry is another owner's, or deleted, or ours with a lost
		// acknowledgement.
		now, header, err := l.store.readEntry(ctx, l.key)
		if err != nil || now == seq || header.Get(hdrOwner) != l.owner {
			return err
		}
		seq = now
		return errContended
	})
	if err != nil {
		return fmt.Errorf("%w; the entry is removed when its lease expires, within %v", err, l.store.opt.TTL)
	}
	return nil
}

// readEntry reads the entry of a key from the stream's leader: a direct get may
// be answered by a replica that lags. The sequence is 0 if there is no entry.
func (s *Store) readEntry(ctx context.Context, key string) (uint64, nats.Header, error) {
	request, err := json.Marshal(map[string]string{"last_by_subj": s.opt.entrySubject(key)})
	if err != nil {
		return 0, nil, err
	}
	reply, err := s.nc.RequestWithContext(ctx, s.opt.apiSubject("STREAM.MSG.GET"), request)
	if err != nil {
		return 0, nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq    uint64 `json:"seq"`
			Header []byte `json:"hdrs"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return 0, nil, err
	}
	if e := answer.Error; e != nil {
		if e.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return 0, nil, nil
		}
		return 0, nil, e
	}
	if len(answer.Message.Header) == 0 {
		return answer.Message.Seq, nil, nil
	}
	header, err := nats.DecodeHeadersMsg(answer.Message.Header)
	return answer.Message.Seq, header, err
}
