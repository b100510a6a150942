package natskv

import (
	"context"
	"time"
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

// takeCheck takes the result of a check. If heartbeats have failed, a success
// makes one of them due, and the acknowledgement of that one makes all of them
// due.
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
	if err != nil {
		k.failing = err
		k.warn(err)
		return
	}
	k.checked = now
	if k.failing != nil {
		k.failing, k.probing = nil, true
		k.abandon(now)
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
	for _, b := range k.beats.abandon() {
		k.schedule(b.lease, now)
	}
}

// alive records an acknowledgement. The first one after a failure makes all
// heartbeats due.
func (k *keeper) alive(now time.Time) {
	k.acked = now
	k.backoff.Reset()
	if !k.probing {
		return
	}
	k.probing = false
	k.urgent = len(k.queue)
	if k.warned {
		k.warned = false
		k.store.log.Info("natskv: keep-alive recovered", "bucket", k.store.opt.Bucket)
	}
}
