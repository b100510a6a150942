package natskv

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
)

// check begins to check the streams and to measure the clock, in a task of its
// own, unless that is under way. It creates streams that were deleted.
func (k *keeper) check(ctx context.Context, now time.Time) {
	if k.checking || now.Before(k.checkAt) || !k.store.nc.IsConnected() {
		return
	}
	k.checking = true
	k.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, minPatience)
		defer cancel()
		err := k.store.request(ctx, k.store.ensure)
		k.mu.Lock()
		k.result, k.hasResult = err, true
		k.mu.Unlock()
		k.wakeUp()
	})
}

// takeCheck takes the result of a check. A failed one stops heartbeats that succeed
// only if the bucket does not fit.
func (k *keeper) takeCheck(now time.Time) {
	k.mu.Lock()
	err, ended := k.result, k.hasResult
	k.hasResult = false
	k.mu.Unlock()
	if !ended {
		return
	}
	k.checking = false
	k.checkAt = now.Add(k.backoff.Next())
	k.noteCheck(err)
	switch {
	case err == nil && k.failing != nil:
		k.checked = now
		k.probe(now)
	case err == nil:
		k.checked = now
		k.backoff.Reset()
	case k.failing != nil || errors.Is(err, ErrBucket):
		k.failing = err
		k.warn(err)
	}
}

// noteCheck logs the first failure of checks while heartbeats are acknowledged, such as
// for lack of a permission or of a leader, and the next success.
func (k *keeper) noteCheck(err error) {
	switch {
	case err == nil && k.checkFailing:
		k.checkFailing = false
		k.store.log.Info("natskv: the bucket can be checked again", "bucket", k.store.opt.Bucket)
	case err != nil && !k.checkFailing && k.failing == nil && !errors.Is(err, ErrBucket) && !errors.Is(err, errContended):
		k.checkFailing = true
		k.store.log.Warn("natskv: the bucket could not be checked, retrying", "bucket", k.store.opt.Bucket, "error", err)
	}
}

// probe makes one heartbeat due after a failure. Its acknowledgement makes all of
// them due.
func (k *keeper) probe(now time.Time) {
	k.failing, k.probing = nil, true
	k.abandon(now)
}

// subscribeDeleted subscribes to the advisories of the server that a stream of the
// bucket was deleted. Where they are not permitted, the next heartbeat reveals that of
// the write stream, and the next check that of the other one.
func (k *keeper) subscribeDeleted() (deleted chan *nats.Msg, unsubscribe func()) {
	opt := k.store.opt
	deleted = make(chan *nats.Msg, 16)
	var subs []*nats.Subscription
	for _, stream := range []string{opt.writeStream(), opt.readStream()} {
		if sub, err := k.store.nc.ChanSubscribe(advisories+"STREAM.DELETED."+stream, deleted); err == nil { // not closed
			subs = append(subs, sub)
		}
	}
	return deleted, func() {
		for _, sub := range subs {
			_ = sub.Unsubscribe()
		}
	}
}

// checkSoon makes a check due, not at the same time as that of every other owner. It
// does not put off one that heartbeats wait for.
func (k *keeper) checkSoon() {
	k.checked = time.Time{}
	if k.failing == nil {
		k.checkAt = time.Now().Add(rand.N(k.store.opt.TTL / 8))
	}
}

// warn logs the first failure since the last recovery.
func (k *keeper) warn(err error) {
	if !k.warned {
		k.warned = true
		k.store.log.Warn("natskv: keep-alive failed, retrying", "bucket", k.store.opt.Bucket, "error", err)
	}
}

// abandon schedules the leases again whose heartbeats have no acknowledgement.
func (k *keeper) abandon(now time.Time) {
	if k.beats == nil {
		return
	}
	var retries []scheduled
	for _, b := range k.beats.abandon() {
		retries = append(retries, scheduled{b.lease, now})
	}
	k.retry(retries)
}

// alive records an acknowledgement. The first one after a failure makes all
// heartbeats due.
func (k *keeper) alive(now time.Time) {
	k.acked, k.former = now, k.store.nc.LastError()
	if !k.probing {
		return
	}
	k.backoff.Reset()
	k.probing = false
	k.urgent = len(k.queue)
	if k.warned {
		k.warned = false
		k.store.log.Info("natskv: keep-alive recovered", "bucket", k.store.opt.Bucket)
	}
}
