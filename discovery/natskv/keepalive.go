package natskv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/internal/wait"
)

const (
	// With three heartbeats per TTL, a stalled leader of a replicated stream
	// cost living owners their leases. A single server has no other leader, so
	// that more of them would only be load.
	heartbeatsPerTTL           = 3
	heartbeatsPerTTLReplicated = 5
	// checkTTLs is the number of TTLs within which the streams are checked, and the
	// clock is measured, at least once.
	checkTTLs = 6
	// window bounds the heartbeats without an acknowledgement.
	window = 4096
)

// keeper prolongs all leases of a store, in one goroutine. It spreads the
// heartbeats over the interval. While heartbeats fail it sends none, but checks
// the streams until that succeeds, and then one heartbeat. Once that one is
// acknowledged, all are due at once.
type keeper struct {
	store    *Store
	beats    *heartbeats
	cancel   context.CancelFunc
	done     chan struct{}
	wake     chan struct{} // of capacity one
	tasks    sync.WaitGroup
	backoff  wait.Backoff
	recovery recovery

	mu        sync.Mutex
	added     []*lease // not yet in queue
	result    error    // of the last check
	hasResult bool     // and not yet taken

	// Only the goroutine uses the rest.
	queue    []scheduled // ordered by the time of the next heartbeat
	urgent   int         // so many at the front of queue are due, whatever their time
	stepped  time.Time   // the last step
	reviewed time.Time   // the last review
	checked  time.Time   // the last successful check
	checking bool
	checkAt  time.Time // no check before
	failing  error     // nil, or why heartbeats are not sent
	failed   time.Time // when that was noticed
	probing  bool      // only one heartbeat is sent, until it is acknowledged
	former   error     // the last error of the connection while heartbeats were acknowledged
	first    uint64    // the first sequence of the write stream, as of the last step
	warned   bool      // that heartbeats fail
	acked    time.Time // the last acknowledgement of any heartbeat

	checkFailing bool // though heartbeats were acknowledged, and that is logged
}

// scheduled is the next heartbeat of a lease.
type scheduled struct {
	lease *lease
	at    time.Time
}

// startKeeper requires store.mu.
func startKeeper(s *Store) *keeper {
	ctx, cancel := context.WithCancel(context.Background())
	now := time.Now()
	k := &keeper{
		store: s, cancel: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1),
		backoff: wait.Backoff{Min: 100 * time.Millisecond, Max: time.Second},
		stepped: now, reviewed: now, checked: now, acked: now,
		former: s.nc.LastError(), first: s.first,
	}
	k.recovery.keeper, k.recovery.backoff = k, k.backoff
	go k.run(ctx)
	return k
}

// stop ends the goroutine and the tasks that it started, and waits for them.
func (k *keeper) stop() {
	k.cancel()
	<-k.done
}

// add schedules a lease that was just written.
func (k *keeper) add(l *lease) {
	k.mu.Lock()
	k.added = append(k.added, l)
	k.mu.Unlock()
	k.wakeUp()
}

func (k *keeper) wakeUp() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *keeper) run(ctx context.Context) {
	defer close(k.done)
	defer k.tasks.Wait()
	defer k.cancel()
	defer func() {
		if k.beats != nil {
			k.beats.close()
		}
	}()
	connected := k.store.nc.StatusChanged(nats.CONNECTED)
	defer k.store.nc.RemoveStatusListener(connected)
	closed := k.store.nc.StatusChanged(nats.CLOSED)
	defer k.store.nc.RemoveStatusListener(closed)
	deleted, unsubscribe := k.subscribeDeleted()
	defer unsubscribe()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-closed:
		case <-connected: // leases may be about to expire
			k.disconnected()
		case <-deleted:
			k.checkSoon()
		case <-k.wake:
		case <-timer.C:
		}
		if k.store.nc.IsClosed() {
			k.endAll(k.closedError())
			return
		}
		k.step(ctx, time.Now())
		timer.Reset(k.pause())
	}
}

func (k *keeper) closedError() error {
	err := nats.ErrConnectionClosed
	if last := k.store.nc.LastError(); last != nil && !errors.Is(last, err) {
		return fmt.Errorf("%w: %w", err, last)
	}
	return err
}

// disconnected makes everything due: what was sent before may be lost.
func (k *keeper) disconnected() {
	k.fail(nats.ErrDisconnected)
	k.failed, k.checkAt = time.Now(), time.Time{}
	k.backoff.Reset()
}

func (k *keeper) interval() time.Duration {
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	if k.store.replicas > 1 {
		return k.store.opt.TTL / heartbeatsPerTTLReplicated
	}
	return k.store.opt.TTL / heartbeatsPerTTL
}

// pause is the time between two steps.
func (k *keeper) pause() time.Duration {
	if k.urgent > 0 {
		return 5 * time.Millisecond
	}
	if len(k.queue)+k.beatsPending()+k.recovery.running+len(k.recovery.lost) == 0 {
		return time.Second
	}
	return min(max(k.interval()/32, 10*time.Millisecond), 100*time.Millisecond)
}

// step processes what has arrived and sends what is due.
func (k *keeper) step(ctx context.Context, now time.Time) {
	k.takeAdded()
	k.takeAcks(now)
	k.takeCheck(now)
	if first := k.store.firstSequence(); first != k.first { // all entries are lost
		k.first, k.urgent = first, len(k.queue)
	}
	if k.failing == nil && now.Sub(k.checked) > checkTTLs*k.store.opt.TTL || k.failing != nil {
		k.check(ctx, now)
	}
	if k.failing != nil && !isFinal(k.failing) && k.store.clock.measuredAt().After(k.failed) {
		k.probe(now) // the server answers
	}
	if k.failing == nil {
		k.sendDue(now)
	}
	k.recovery.step(ctx, now)
	k.removeOrphans(ctx)
	if now.Sub(k.reviewed) > k.interval()/2 {
		k.reviewed = now
		k.review(now)
	}
	k.stepped = now
}

func (k *keeper) beatsPending() int {
	if k.beats == nil {
		return 0
	}
	return k.beats.pending()
}

// send sends the heartbeat of a lease, unless it has ended.
func (k *keeper) send(l *lease, now time.Time) (err error) {
	if l.Ended() {
		return nil
	}
	if k.beats == nil {
		if k.beats, err = newHeartbeats(k.store); err != nil {
			return err
		}
	}
	return k.beats.send(l, l.sequence(), now)
}

// overdue is how long a heartbeat waits for its acknowledgement before the lease
// gets another one.
func (k *keeper) overdue() time.Duration { return k.store.opt.TTL / 4 }

func (k *keeper) takeAcks(now time.Time) {
	if k.beats == nil {
		return
	}
	acked, unanswered := k.beats.collect(now.Add(-k.overdue()), now.Add(-k.store.opt.TTL))
	interval := k.interval()
	var retries []scheduled
	for _, b := range acked {
		switch {
		case b.late && b.err == nil: // the lease is scheduled again already
			k.alive(now)
			b.lease.Beat(b.at)
		case b.late: // the next heartbeat is refused as well
		case b.err == nil:
			k.alive(now)
			b.lease.Beat(b.at)
			k.schedule(b.lease, b.at.Add(interval))
		case isWrongSequence(b.err):
			k.alive(now)
			k.recovery.add(b, now)
		case hasCode(b.err, errTooMany) || isWriteInFlight(b.err):
			retries = append(retries, scheduled{b.lease, now.Add(interval / 4)})
		default:
			retries = append(retries, scheduled{b.lease, now})
			k.fail(b.err)
			if k.probing {
				k.warn(b.err)
			}
		}
	}
	for _, b := range unanswered {
		retries = append(retries, scheduled{b.lease, now})
		if k.acked.Before(b.at) { // the server is silent, rather than slow
			k.fail(errNoAck)
		}
	}
	k.retry(retries)
}

var errNoAck = errors.New("no acknowledgement of heartbeats")

// fail stops the heartbeats until a check succeeds. Those without an
// acknowledgement are sent again then.
func (k *keeper) fail(err error) {
	if k.failing == nil && !k.probing {
		k.checkAt = time.Time{}
	}
	if k.failing == nil {
		k.failed = time.Now()
	}
	k.failing = err
}
