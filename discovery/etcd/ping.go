package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

const (
	pingInterval = 500 * time.Millisecond
	// slowPing is the response time above which leases of running owners may
	// have expired, because their heartbeats were as slow.
	slowPing = 1500 * time.Millisecond
	// staleAfter is the time since the last successful ping after which a
	// deletion may be older than a fault that the next ping will detect.
	staleAfter = pingInterval + slowPing
	// stallTimeout is how long a watch may deliver nothing while pings show that
	// there is something to deliver.
	stallTimeout = 20 * time.Second
	// uncertainTime is how long after a fault an owner may not have recovered
	// its entries: longer than a reader holds removals.
	uncertainTime = 20 * time.Second
)

// pinger is the state of the pings of a watch.
type pinger struct {
	pongs    chan pong // of capacity one
	stopPing context.CancelFunc
	pinging  bool // one ping is under way
	life     context.Context
	nextPing time.Time
	pause    wait.Backoff // after pings that failed

	awaited   int64     // the revision that the watch must reach; zero if there is none
	awaitedAt time.Time // when the ping that returned it was sent
}

// pong is the result of a ping.
type pong struct {
	sent     time.Time
	took     time.Duration
	revision int64
	err      error
}

func newPinger() pinger {
	life, stop := streamContext()
	return pinger{
		pongs: make(chan pong, 1), life: life, stopPing: stop, nextPing: time.Now().Add(pingInterval),
		pause: wait.Backoff{Min: pingInterval, Max: 2 * time.Second},
	}
}

// ping reads the store's revision, and requests the watch's progress towards it,
// in the background: a slow store must not delay the changes of the watch.
func (w *watcher) ping() {
	w.pinging = true
	ctx, cancel := context.WithTimeout(w.life, w.requests.get())
	f, from, client := w.following, w.from, w.store.client
	w.running.Go(func() {
		defer cancel()
		r := pong{sent: time.Now()}
		resp, err := client.Get(ctx, from, clientv3.WithKeysOnly())
		if err == nil {
			r.revision = resp.Header.Revision
			if r.revision > f.reached {
				// etcd sends no progress of its own accord for a watch without changes.
				err = f.stream.RequestProgress(ctx)
			}
		}
		r.took, r.err = time.Since(r.sent), err
		f.pongs <- r
	})
}

// observePong returns an error if the watch must begin again.
func (w *watcher) observePong(r pong) error {
	w.pinging = false
	w.requests.observe(r.took, r.err)
	if err := w.sameConnections(); err != nil {
		return errors.Join(err, r.err)
	}
	if r.err != nil {
		if !isTransient(r.err) {
			return r.err
		}
		w.slow = time.Now()
		w.nextPing = time.Now().Add(w.pause.Next())
		w.store.outage.begin(w, w.store.located(r.err))
		return nil
	}
	w.pause.Reset()
	w.nextPing = r.sent.Add(pingInterval)
	w.store.outage.end(w)
	if r.took > slowPing || r.sent.Sub(w.answered) > staleAfter {
		w.slow = time.Now()
	}
	if r.revision < w.latest {
		return fmt.Errorf("revision %d after %d: the store has lost its data", r.revision, w.latest)
	}
	w.latest, w.answered = r.revision, r.sent
	if w.awaited == 0 {
		w.awaited, w.awaitedAt = r.revision, r.sent
	} else if time.Since(w.progressed) > stallTimeout && time.Since(w.awaitedAt) > stallTimeout {
		return fmt.Errorf("the watch does not reach revision %d", w.awaited)
	}
	w.reportProgress()
	return nil
}

// sameConnections returns an error if a connection has ended since the listing began.
func (w *watcher) sameConnections() error {
	if w.store.connections.ended.Load() != w.ended {
		return errConnectionEnded
	}
	return nil
}

var errConnectionEnded = errors.New("a connection has ended")

// reportProgress queues an OpProgress if the watch has reached the revision that
// is awaited.
func (w *watcher) reportProgress() {
	if w.awaited > 0 && w.awaited <= w.reached {
		w.queue(discovery.Change{Op: discovery.OpProgress, AliveSince: w.awaitedAt})
		w.awaited = 0
	}
}

// faults are the times by which the causes of removals are found.
type faults struct {
	answered time.Time // when the last successful ping was sent
	latest   int64     // the revision that it returned
	relisted time.Time // the last listing after a fault; zero if there was none
	slow     time.Time // the last time when pings were slow, failed, or late; zero if there was none
}

// unknownLease is that of an entry whose former value was compacted before the
// watch read it.
const unknownLease int64 = -1

func leaseOf(ev *clientv3.Event) int64 {
	if ev.PrevKv == nil {
		return unknownLease
	}
	return ev.PrevKv.Lease
}

// causes returns why entries are gone, by lease. etcd does not report whether an
// entry was deleted or its lease expired, and as long as the store is reachable
// the difference does not matter: the removal is reported at once. After a fault, a
// lease that still exists shows that the entry was deleted on purpose.
func (w *watcher) causes(ctx context.Context, events []*clientv3.Event) map[int64]discovery.Cause {
	causes := map[int64]discovery.Cause{}
	var unclear []int64
	for _, ev := range events {
		lease := leaseOf(ev)
		if _, known := causes[lease]; known || ev.Type != clientv3.EventTypeDelete {
			continue
		}
		causes[lease] = w.cause(lease)
		if causes[lease] == 0 {
			unclear = append(unclear, lease)
		}
	}
	var mu sync.Mutex
	_ = eachBatch(ctx, slices.Collect(slices.Chunk(unclear, 1)), func(ctx context.Context, lease []int64) error {
		cause := w.causeNow(ctx, lease[0])
		mu.Lock()
		defer mu.Unlock()
		causes[lease[0]] = cause
		return nil
	})
	return causes
}

// cause returns 0 if it takes a request to find the cause.
func (w *watcher) cause(lease int64) discovery.Cause {
	switch {
	case lease == int64(clientv3.NoLease):
		return discovery.CauseUnregistered
	case lease == unknownLease, time.Since(w.answered) > staleAfter:
		return discovery.CauseUncertain
	case time.Since(w.relisted) > uncertainTime && time.Since(w.slow) > uncertainTime:
		return discovery.CauseExpired
	}
	return 0
}

// causeNow reads from etcd whether a lease still exists.
func (w *watcher) causeNow(ctx context.Context, lease int64) discovery.Cause {
	ctx, cancel := context.WithTimeout(ctx, slowPing)
	defer cancel()
	info, err := w.store.client.TimeToLive(ctx, clientv3.LeaseID(lease))
	switch {
	case err == nil && info.TTL >= 0:
		return discovery.CauseUnregistered
	case err != nil, time.Since(w.slow) <= uncertainTime:
		return discovery.CauseUncertain
	}
	return discovery.CauseExpired // the client holds it after a listing
}
