package natskv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
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
	hdrOwnerTTL  = "Dynplane-TTL"       // milliseconds
	hdrSource    = "Nats-Stream-Source" // stream, sequence in it, and more
)

const (
	// markerTTL is how long the marker of a deleted entry stays in the bucket.
	markerTTL = "1h"
	// headerRoom is for the headers of an entry, which count towards
	// max_payload.
	headerRoom = 4096
)

type message = nats.Msg

// leaseBody is the body of a lease, and therefore of the purge that the server
// publishes at its deadline. An intentional purge has no body.
type leaseBody struct {
	Deadline int64 `json:"deadline_ms"` // Unix time of the server
	TTL      int64 `json:"ttl_ms"`
}

// entryMsg is the entry itself. It is written once for each value of a
// registration and never by a heartbeat, since every write is an event for every
// watcher.
func (l *lease) entryMsg(value []byte) *message {
	m := nats.NewMsg(l.store.opt.entrySubject(l.key))
	m.Data = value
	m.Header.Set(hdrOwner, l.owner)
	m.Header.Set(hdrOwnerTTL, strconv.FormatInt(l.store.opt.TTL.Milliseconds(), 10))
	return m
}

// leaseMsg is the lease: a schedule by which the server purges the entry at
// the deadline, after ttl. A later lease replaces an earlier one.
func (l *lease) leaseMsg(ttl time.Duration) *message {
	opt := l.store.opt
	deadline := l.store.clock.serverNow().Add(ttl)
	m := nats.NewMsg(opt.leaseSubject(l.key))
	// jetstream.WithScheduleAt would truncate the deadline to whole seconds.
	m.Header.Set(jetstream.ScheduleHeader, "@at "+deadline.UTC().Format(time.RFC3339Nano))
	m.Header.Set(jetstream.ScheduleTargetHeader, opt.entrySubject(l.key))
	m.Header.Set(jetstream.ScheduleTTLHeader, markerTTL)
	m.Header.Set(hdrOperation, "PURGE")
	m.Data, _ = json.Marshal(leaseBody{deadline.UnixMilli(), ttl.Milliseconds()})
	return m
}

// heartbeatMsg prolongs the lease if the entry is still the one at seq.
func (l *lease) heartbeatMsg(seq uint64) *message {
	m := l.leaseMsg(l.store.opt.TTL)
	expect(m, l.store.opt.entrySubject(l.key), seq)
	return m
}

// purgeMsg removes the entry intentionally and cancels its lease, in one step.
func (l *lease) purgeMsg(seq uint64) *message {
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
func expect(m *message, subject string, seq uint64) {
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(seq, 10))
	if m.Subject != subject {
		m.Header.Set(jetstream.ExpectedLastSubjSeqSubjHeader, subject)
	}
}

func (s *Store) publish(ctx context.Context, m *message) (*jetstream.PubAck, error) {
	requesting(ctx, m.Subject)
	return s.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
}

// entry is the last message on the subject of an entry.
type entry struct {
	seq    uint64 // zero if there is none
	header nats.Header
	data   []byte
}

func (e entry) living() bool  { return e.seq != 0 && !isMarker(e.header) }
func (e entry) owner() string { return e.header.Get(hdrOwner) }

// readEntry reads the entry of a key from the leader of the write stream: a direct
// get may be answered by a replica that lags, and the bucket follows a moment
// later.
func (s *Store) readEntry(ctx context.Context, key string) (entry, error) {
	request, err := json.Marshal(map[string]string{"last_by_subj": s.opt.entrySubject(key)})
	if err != nil {
		return entry{}, err
	}
	subject := s.opt.apiSubject("STREAM.MSG.GET", s.opt.writeStream())
	requesting(ctx, subject)
	reply, err := s.nc.RequestWithContext(ctx, subject, request)
	if err != nil {
		return entry{}, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq    uint64 `json:"seq"`
			Header []byte `json:"hdrs"`
			Data   []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return entry{}, fmt.Errorf("read %s: %w", key, err)
	}
	if e := answer.Error; e != nil {
		if e.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return entry{}, nil
		}
		return entry{}, e
	}
	found := entry{seq: answer.Message.Seq, data: answer.Message.Data}
	if len(answer.Message.Header) > 0 {
		found.header, err = nats.DecodeHeadersMsg(answer.Message.Header)
	}
	return found, err
}

// Get implements discovery.Store.
func (s *Store) Get(ctx context.Context, id discovery.ID) ([]byte, error) {
	key := encodeKey(id)
	if err := checkKey(key); err != nil {
		return nil, err
	}
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	var found entry
	responders := responders{store: s}
	err = s.retry(ctx, func(ctx context.Context) error {
		found, err = s.readEntry(ctx, key)
		return responders.check(err)
	})
	if hasCode(err, jetstream.JSErrCodeStreamNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) || err == nil && !found.living() {
		return nil, discovery.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return found.data, nil
}

// bucketPatience bounds the wait for the bucket after a write.
const bucketPatience = 3 * time.Second

// awaitBucket waits until the bucket has what was written at a sequence, so that a
// list after a Register, and one after an Unregister, show it. Usually that is so
// within milliseconds. During an election the bucket may be late by many seconds;
// the write has succeeded all the same, and readers see it then.
func (s *Store) awaitBucket(ctx context.Context, key string, seq uint64) {
	ctx, cancel := context.WithTimeout(ctx, min(bucketPatience, s.opt.TTL))
	defer cancel()
	subject := s.opt.apiSubject("DIRECT.GET", s.opt.readStream()) + "." + s.opt.readSubject(key)
	begun := time.Now()
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		m, err := s.nc.RequestWithContext(ctx, subject, nil)
		if err == nil && sourceSequence(m.Header) >= seq || wait.Sleep(ctx, pause) != nil {
			return
		}
		if errors.Is(err, nats.ErrNoResponders) && time.Since(begun) > silence {
			return // there is no bucket; the keep-alive creates it
		}
	}
}

// sourceSequence returns the sequence in the write stream of a message of the
// bucket, or zero.
func sourceSequence(h nats.Header) uint64 {
	_, rest, _ := strings.Cut(h.Get(hdrSource), " ")
	number, _, _ := strings.Cut(rest, " ")
	seq, _ := strconv.ParseUint(number, 10, 64)
	return seq
}
