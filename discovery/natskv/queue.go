package natskv

import (
	"slices"
	"time"
)

func (k *keeper) takeAdded() {
	k.mu.Lock()
	added := k.added
	k.added = nil
	k.mu.Unlock()
	for _, l := range added {
		k.schedule(l, l.LastBeat().Add(k.interval()))
	}
}

// schedule appends a lease to the queue, which stays ordered.
func (k *keeper) schedule(l *lease, at time.Time) {
	if n := len(k.queue); n > 0 && at.Before(k.queue[n-1].at) {
		at = k.queue[n-1].at
	}
	k.queue = append(k.queue, scheduled{l, at})
}

// retry puts leases into the queue by their times: before those that were prolonged
// since, but behind the urgent ones.
func (k *keeper) retry(retries []scheduled) {
	if len(retries) == 0 {
		return
	}
	byTime := func(a, b scheduled) int { return a.at.Compare(b.at) }
	slices.SortStableFunc(retries, byTime)
	queue := slices.Clone(k.queue[:k.urgent])
	rest := k.queue[k.urgent:]
	for _, r := range retries {
		n, _ := slices.BinarySearchFunc(rest, r, byTime)
		queue = append(queue, rest[:n]...)
		queue = append(queue, r)
		rest = rest[n:]
	}
	k.queue = slices.Concat(queue, rest)
}

// sendDue sends the heartbeats that are due. So that those of many leases that were
// registered, or recovered, at once do not stay together, it sends few more in a
// step than an even distribution would.
func (k *keeper) sendDue(now time.Time) {
	interval := k.interval()
	even := len(k.queue) + k.beatsPending()
	quota := 1 + int(1.5*float64(even)*float64(now.Sub(k.stepped))/float64(interval))
	quota = max(quota, k.urgent)
	if k.probing {
		quota = 1 - min(k.beatsPending(), 1)
		k.urgent = min(1, len(k.queue))
	}
	n := 0
	for ; n < len(k.queue) && n < quota && k.beatsPending() < window; n++ {
		next := k.queue[n]
		if n >= k.urgent && next.at.After(now) {
			break
		}
		if err := k.send(next.lease, now); err != nil {
			k.fail(err)
			break
		}
	}
	k.queue = k.queue[n:]
	k.urgent = max(k.urgent-n, 0)
}
