package discovery

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// keepAlive is the one goroutine that prolongs all leases of the store.
func (s *JetStream) keepAlive(ctx context.Context) {
	defer close(s.stopped)
	reconnected := s.nc.StatusChanged(nats.CONNECTED)
	defer s.nc.RemoveStatusListener(reconnected)
	k := keeper{store: s}
	timer := time.NewTimer(s.opt.TTL / beatsPerTTL)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-reconnected: // beat at once: a lease may be about to run out
			k.unmeasured = beatsPerTTL
		}
		timer.Reset(k.round(ctx))
	}
}

// keeper is the state of keepAlive.
type keeper struct {
	store      *JetStream
	unmeasured int  // beats since the clock was measured
	failing    bool // and said so
	again      int  // registrations that were lost and are there again, not yet said
}

// round beats once for every lease and returns when the next round is due.
func (k *keeper) round(ctx context.Context) time.Duration {
	s := k.store
	beats := s.beatAll()
	err := k.measure(ctx)
	lost, berr := s.gather(ctx, beats)
	if err == nil {
		err = berr
	}
	if len(lost) > 0 {
		k.unmeasured = beatsPerTTL // a clock that was set back loses leases too
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
	interval := s.opt.TTL / beatsPerTTL
	if err == nil || hasCode(err, errTooMany) {
		return interval
	}
	k.unmeasured = beatsPerTTL
	return min(failingBeat, interval)
}

// measure asks for the clock every few beats and after each failure; it runs
// while the acknowledgements of the beats are under way. It finds out too
// whether the bucket is gone, and makes it again.
func (k *keeper) measure(ctx context.Context) error {
	if k.unmeasured++; k.unmeasured < beatsPerTTL {
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
			k.store.log.Warn("discovery: registrations cannot be kept alive; trying on", "bucket", k.store.opt.Bucket, "error", err)
		} else {
			k.store.log.Info("discovery: registrations are kept alive again", "bucket", k.store.opt.Bucket)
		}
	}
}

// ackWait bounds each wait of a round. There are three of them, and all leases
// must be prolonged within their TTL.
func ackWait(ttl time.Duration) time.Duration {
	return min(ttl/4, 2*time.Second)
}

// beat is a heartbeat under way.
type beat struct {
	lease *jetStreamLease
	ack   jetstream.PubAckFuture
	err   error
}

func (s *JetStream) beatAll() []beat {
	s.mu.Lock()
	beats := make([]beat, 0, len(s.leases))
	seqs := make([]uint64, 0, len(s.leases))
	for _, l := range s.leases {
		beats = append(beats, beat{lease: l})
		seqs = append(seqs, l.seq)
	}
	s.mu.Unlock()
	for i := range beats {
		b := &beats[i]
		b.ack, b.err = s.js.PublishMsgAsync(b.lease.beatMsg(seqs[i]), jetstream.WithRetryAttempts(0))
	}
	return beats
}

// gather waits for the acknowledgements. It returns the leases whose entry is
// not what we wrote, and one of the other failures.
func (s *JetStream) gather(ctx context.Context, beats []beat) (lost []*jetStreamLease, failure error) {
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
		if hasCode(err, errWrongSequence) {
			lost = append(lost, b.lease)
		} else if err != nil {
			failure = fmt.Errorf("heartbeat of %s: %w", b.lease.key, err)
		}
	}
	return lost, failure
}

// recoverAll looks after leases that were lost. What it does not get done in
// time is for the next round: those that it has taken again want their beats.
// It warns once for all.
func (k *keeper) recoverAll(ctx context.Context, lost []*jetStreamLease) error {
	var again atomic.Int64
	ctx, cancel := context.WithTimeout(ctx, ackWait(k.store.opt.TTL))
	defer cancel()
	err := each(lost, func(l *jetStreamLease) error {
		taken, err := l.recover(ctx)
		if taken {
			again.Add(1)
		}
		return err
	})
	k.again += int(again.Load())
	if err == nil && k.again > 0 {
		k.store.log.Warn("discovery: registrations were lost and are registered again", "count", k.again, "one", lost[0].key)
		k.again = 0
	}
	return err
}

// recover finds out what became of an entry that is not what we wrote, and
// returns whether it wrote it again.
func (l *jetStreamLease) recover(ctx context.Context) (again bool, err error) {
	s := l.store
	for {
		seq, header, err := s.readEntry(ctx, l.key)
		if err != nil {
			return false, fmt.Errorf("read %s: %w", l.key, err)
		}
		owner := header.Get(hdrOwner)
		switch {
		case seq == 0 || isMarker(header):
			// Gone.
		case owner == l.owner:
			// A write of ours whose acknowledgement was lost.
			l.rewritten(ctx, seq)
			return false, nil
		case owner != "":
			s.mu.Lock()
			if !l.Ended() {
				s.log.Warn("discovery: another owner took a registration over; it is not kept alive here any more", "key", l.key, "owner", owner)
				l.end(ErrTakenOver)
			}
			s.mu.Unlock()
			return false, nil
		default:
			s.log.Warn("discovery: a foreign writer overwrote a registration", "key", l.key)
		}
		if l.Ended() {
			return false, nil
		}
		written, err := l.write(ctx, &seq)
		if err == nil {
			l.rewritten(ctx, written)
			return true, nil
		}
		if !hasCode(err, errWrongSequence) {
			return false, fmt.Errorf("register %s again: %w", l.key, err)
		}
	}
}

// rewritten notes the new sequence of the entry. If the lease was given back
// meanwhile, what was written is taken back.
func (l *jetStreamLease) rewritten(ctx context.Context, seq uint64) {
	l.store.mu.Lock()
	ended := l.Ended()
	l.seq = seq
	l.store.mu.Unlock()
	if ended {
		if err := l.purge(ctx, seq); err != nil {
			l.store.log.Warn("discovery: a registration that was given back stays until its lease runs out", "key", l.key, "error", err)
		}
	}
}

// readEntry reads the entry of a key from the leader: a direct get may be
// answered by a replica that lags. The sequence is 0 if there is none.
func (s *JetStream) readEntry(ctx context.Context, key string) (uint64, nats.Header, error) {
	request, err := json.Marshal(map[string]string{"last_by_subj": s.entrySubject(key)})
	if err != nil {
		return 0, nil, err
	}
	reply, err := s.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+s.stream(), request)
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

// each calls do for all leases, a few at a time, and returns one of the errors
// and how many there were.
func each(leases []*jetStreamLease, do func(*jetStreamLease) error) error {
	const atOnce = 16
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed int
		last   error
		next   = make(chan *jetStreamLease)
	)
	for range min(atOnce, len(leases)) {
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
