package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
)

const (
	pageSize  = 500
	pingEvery = 500 * time.Millisecond
	// A store that takes longer to answer is disturbed: leases may have run
	// out in that time, though their owners live.
	pingTimeout = 1500 * time.Millisecond
	// Deletions that were read so long after the last ping may be older than
	// a disturbance that the next ping will find.
	staleAfter = pingEvery + pingTimeout
	mostSilent = 4 // pings without progress of the watch, before it counts as broken
)

// watcher lists page by page and then follows from the revision of the listing.
//
// The client library resumes a broken watch by itself, for ever and silently.
// So a linearizable read asks twice a second whether the store is there, and
// once the watch has come to the revision of that read, all that was before is
// known. A read that fails or takes long, or that shows an older revision (the
// store was lost, and began anew), makes the watcher list again.
type watcher struct {
	store  *Store
	query  discovery.Query
	bucket string // with its slash; empty if there is nothing to watch
	prefix string // with that of the bucket

	begun    bool               // a page has been read
	relisted bool               // the store has been disturbed
	queued   []discovery.Change // to be delivered before anything else

	rev  int64  // of the listing; zero before its first page
	next string // the key at which its next page begins

	// While following:
	stream clientv3.Watcher // of our own: others must not hold it up
	ctx    context.Context  // of the stream
	cancel context.CancelFunc
	events clientv3.WatchChan // nil while listing

	pinged   time.Time // the last ping
	answered time.Time // when the last ping that succeeded was sent
	seen     int64     // the revision that it found
	come     int64     // the revision up to which all changes have come
	asked    time.Time // the ping that waits for the watch to come to want
	want     int64     // zero if none waits
	silent   int       // pings since then
}

// Watch implements discovery.Store.
func (s *Store) Watch(_ context.Context, q discovery.Query) (discovery.Watcher, error) {
	if s.isClosed() {
		return nil, discovery.ErrClosed
	}
	w := &watcher{store: s, query: q}
	if q.Kind == 0 { // finds nothing
		w.queued = []discovery.Change{{Op: discovery.OpReset}, {Op: discovery.OpSynced}}
		return w, nil
	}
	bucket, err := discovery.DynamoBucket(q.Kind)
	if err != nil {
		return nil, err
	}
	w.bucket = bucket + "/"
	w.prefix = w.bucket + discovery.DynamoPrefix(q)
	return w, nil
}

// Next implements discovery.Watcher.
func (w *watcher) Next(ctx context.Context) (discovery.Change, error) {
	for {
		if err := ctx.Err(); err != nil {
			return discovery.Change{}, err
		}
		if len(w.queued) > 0 {
			ch := w.queued[0]
			w.queued = w.queued[1:]
			return ch, nil
		}
		err := w.step(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		if w.store.isClosed() {
			return discovery.Change{}, discovery.ErrClosed
		}
		if !w.begun {
			return discovery.Change{}, err
		}
		w.store.log.Debug("etcd: the watch lists again", "prefix", w.prefix, "error", err)
		w.drop()
		_ = w.store.sleep(ctx, retryWait)
	}
}

// step does one thing that may queue changes.
func (w *watcher) step(ctx context.Context) error {
	switch {
	case w.store.isClosed():
		return discovery.ErrClosed
	case w.bucket == "":
		return w.store.sleep(ctx, pingEvery)
	case w.events != nil:
		return w.receive(ctx)
	case !w.begun: // the first listing fails when etcd says no, or nothing for long
		return w.store.retry(ctx, w.list)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return w.list(ctx)
}

// list reads a page. All pages are of the revision of the first.
func (w *watcher) list(ctx context.Context) error {
	options := []clientv3.OpOption{
		clientv3.WithRange(clientv3.GetPrefixRangeEnd(w.prefix)), clientv3.WithLimit(pageSize), clientv3.WithRev(w.rev),
	}
	if w.rev == 0 {
		w.next = w.prefix
	}
	asked := time.Now()
	resp, err := w.store.client.Get(ctx, w.next, options...)
	if err != nil {
		return err
	}
	if w.rev == 0 {
		w.relisted, w.begun = w.begun, true
		w.rev, w.seen, w.answered = resp.Header.Revision, resp.Header.Revision, asked
		w.queued = append(w.queued, discovery.Change{Op: discovery.OpReset})
	}
	for _, kv := range resp.Kvs {
		w.queued = append(w.queued, w.put(kv))
	}
	if resp.More {
		w.next = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		return nil
	}
	if err := w.follow(ctx); err != nil {
		return err
	}
	w.queued = append(w.queued, discovery.Change{Op: discovery.OpSynced})
	return nil
}

// follow opens the watch, which ctx bounds only until it is open.
func (w *watcher) follow(ctx context.Context) error {
	w.stream = clientv3.NewWatcher(w.store.client)
	w.ctx, w.cancel = context.WithCancel(clientv3.WithRequireLeader(context.WithoutCancel(ctx)))
	stop := context.AfterFunc(ctx, w.cancel)
	w.events = w.stream.Watch(w.ctx, w.prefix, clientv3.WithPrefix(), clientv3.WithRev(w.rev+1), clientv3.WithPrevKV())
	w.come, w.want, w.pinged = w.rev, 0, time.Now()
	if !stop() {
		w.drop()
		return ctx.Err()
	}
	return nil
}

// drop gives the watch up; the next step lists again.
func (w *watcher) drop() {
	if w.events != nil {
		w.cancel()
		_ = w.stream.Close() // it says why it was closed: we did
	}
	w.events, w.rev = nil, 0
}

func (w *watcher) receive(ctx context.Context) error {
	timer := time.NewTimer(time.Until(w.pinged.Add(pingEvery)))
	defer timer.Stop()
	select {
	case resp, ok := <-w.events:
		if !ok {
			return errors.New("the watch ended")
		}
		return w.apply(ctx, &resp)
	case <-timer.C:
		return w.ping(ctx)
	case <-w.store.closed:
		return discovery.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// apply queues the changes of a response.
func (w *watcher) apply(ctx context.Context, resp *clientv3.WatchResponse) error {
	if err := resp.Err(); err != nil {
		return err
	}
	gone := map[int64]discovery.Cause{}
	for _, ev := range resp.Events {
		if ev.Type == clientv3.EventTypePut {
			w.queued = append(w.queued, w.put(ev.Kv))
			continue
		}
		id, err := w.parse(ev.Kv.Key)
		if err != nil {
			continue // it was bad, and is gone
		}
		lease := int64(-1) // of no entry
		if ev.PrevKv != nil {
			lease = ev.PrevKv.Lease
		}
		if gone[lease] == 0 {
			gone[lease] = w.cause(ctx, lease)
		}
		w.queued = append(w.queued, discovery.Change{Op: discovery.OpDelete, ID: id, Key: string(ev.Kv.Key), Cause: gone[lease]})
	}
	if resp.IsProgressNotify() {
		w.come = resp.Header.Revision
		w.answer()
	}
	return nil
}

// answer tells that the store is alive if the watch has come to what the ping
// found. It returns whether no ping waits any more.
func (w *watcher) answer() bool {
	if w.want > w.come {
		return false
	}
	if w.want > 0 {
		w.queued = append(w.queued, discovery.Change{Op: discovery.OpProgress, AliveSince: w.asked})
		w.want = 0
	}
	return true
}

func (w *watcher) parse(key []byte) (discovery.ID, error) {
	return discovery.ParseDynamoKey(w.query.Kind, strings.TrimPrefix(string(key), w.bucket))
}

func (w *watcher) put(kv *mvccpb.KeyValue) discovery.Change {
	ch := discovery.Change{Op: discovery.OpPut, Key: string(kv.Key), Value: kv.Value}
	if ch.ID, ch.Err = w.parse(kv.Key); ch.Err != nil {
		ch.Op = discovery.OpInvalid
	}
	return ch
}

// cause tells why an entry that hung on a lease is gone. etcd does not say
// whether it was deleted or its lease ended, but in quiet times nobody asks
// either: both are believed at once. After a disturbance, a lease that is
// still there says that the entry was deleted on purpose.
func (w *watcher) cause(ctx context.Context, lease int64) discovery.Cause {
	switch {
	case lease == int64(clientv3.NoLease):
		return discovery.CauseUnregistered
	case time.Since(w.answered) > staleAfter:
		return discovery.CauseUncertain
	case !w.relisted && lease > 0:
		return discovery.CauseExpired
	case lease < 0: // compacted away before we could read it
		return discovery.CauseUncertain
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	info, err := w.store.client.TimeToLive(ctx, clientv3.LeaseID(lease))
	switch {
	case err != nil:
		return discovery.CauseUncertain
	case info.TTL < 0:
		return discovery.CauseExpired
	}
	return discovery.CauseUnregistered
}

// ping asks the store for its revision, and then the watch to come to it.
func (w *watcher) ping(ctx context.Context) error {
	w.pinged = time.Now()
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	resp, err := w.store.client.Get(ctx, w.prefix, clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	if resp.Header.Revision < w.seen {
		return fmt.Errorf("revision %d after %d: the store has lost what it had", resp.Header.Revision, w.seen)
	}
	w.seen, w.answered = resp.Header.Revision, w.pinged
	if w.want == 0 {
		w.want, w.asked, w.silent = w.seen, w.pinged, 0
	} else if w.silent++; w.silent > mostSilent {
		return fmt.Errorf("the watch does not come to revision %d", w.want)
	}
	// etcd does not say how far a watch has come to which nothing was written.
	if w.answer() {
		return nil
	}
	// The context of the stream names it; ctx only bounds the wait.
	stop := context.AfterFunc(ctx, w.cancel)
	defer stop()
	return w.stream.RequestProgress(w.ctx)
}

// Close implements discovery.Watcher.
func (w *watcher) Close() error {
	w.drop()
	return nil
}
