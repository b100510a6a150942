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
	"github.com/dynplane/dynplane/internal/wait"
)

const (
	pageSize     = 500
	pingInterval = 500 * time.Millisecond
	// pingTimeout is the response time above which the store counts as
	// faulty: leases of running owners may have expired meanwhile.
	pingTimeout = 1500 * time.Millisecond
	// staleAfter is the time since the last successful ping after which a
	// deletion may be older than a fault that the next ping will detect.
	staleAfter = pingInterval + pingTimeout
	// maxStalledPings is the number of pings without progress of the watch
	// after which it counts as broken.
	maxStalledPings = 4
)

// watcher lists page by page and then follows from the revision of the listing.
//
// The client library resumes a broken watch silently and forever, so the watch
// itself does not reveal an outage. Twice a second the watcher therefore pings
// the store with a linearizable read. Once the watch has reached the revision of
// that read, all earlier changes have been delivered. If a ping fails, is slow,
// or returns an older revision than before (the store has lost its data), the
// watcher lists again.
type watcher struct {
	store  *Store
	query  discovery.Query
	bucket string // with a slash at its end; empty if the query matches nothing
	prefix string // of the keys, that of the bucket included

	begun    bool               // the first page has been read
	relisted bool               // a fault has occurred
	queued   []discovery.Change // delivered before anything else

	revision int64  // of the listing; zero before its first page
	nextKey  string // at which the next page begins

	// While following:
	stream clientv3.Watcher   // its own, so that no other watch delays it
	cancel context.CancelFunc // of the stream
	events clientv3.WatchChan // nil while listing

	pinged    time.Time // when the last ping was sent
	answered  time.Time // when the last successful ping was sent
	latest    int64     // the revision that it returned
	reached   int64     // the revision up to which the watch has delivered all changes
	awaited   int64     // the revision that the watch must reach; zero if there is none
	awaitedAt time.Time // when the ping that returned it was sent
	stalled   int       // pings since then
}

// Watch implements discovery.Store.
func (s *Store) Watch(_ context.Context, q discovery.Query) (discovery.Watcher, error) {
	if s.isClosed() {
		return nil, discovery.ErrClosed
	}
	w := &watcher{store: s, query: q}
	if q.Kind == 0 { // matches nothing
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
		listing := w.events == nil
		err := w.step(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		if w.store.isClosed() {
			return discovery.Change{}, discovery.ErrClosed
		}
		if !w.begun {
			return discovery.Change{}, w.store.located(err)
		}
		w.store.log.Debug("etcd: watch failed, listing again", "prefix", w.prefix, "error", err)
		if isOutage(err, listing) {
			w.store.outage.begin(w, w.store.located(err))
		}
		w.dropStream()
		_ = wait.Sleep(ctx, retryWait)
	}
}

// step performs one action that may queue changes.
func (w *watcher) step(ctx context.Context) error {
	switch {
	case w.store.isClosed():
		return discovery.ErrClosed
	case w.bucket == "":
		return w.waitForEnd(ctx)
	case w.events != nil:
		return w.receive(ctx)
	case !w.begun: // the first listing fails if etcd refuses it, or does not answer for long
		return w.store.retry(ctx, w.list)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return w.list(ctx)
}

// waitForEnd is the whole watch of a query that matches nothing.
func (w *watcher) waitForEnd(ctx context.Context) error {
	select {
	case <-w.store.closed:
		return discovery.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// list reads one page. All pages are read at the revision of the first one.
func (w *watcher) list(ctx context.Context) error {
	options := []clientv3.OpOption{
		clientv3.WithRange(clientv3.GetPrefixRangeEnd(w.prefix)), clientv3.WithLimit(pageSize), clientv3.WithRev(w.revision),
	}
	if w.revision == 0 {
		w.nextKey = w.prefix
	}
	requested := time.Now()
	resp, err := w.store.client.Get(ctx, w.nextKey, options...)
	if err != nil {
		return err
	}
	if w.revision == 0 {
		w.relisted, w.begun = w.begun, true
		w.revision, w.latest, w.answered = resp.Header.Revision, resp.Header.Revision, requested
		w.queued = append(w.queued, discovery.Change{Op: discovery.OpReset})
	}
	for _, kv := range resp.Kvs {
		w.queued = append(w.queued, w.put(kv))
	}
	if resp.More {
		w.nextKey = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		return nil
	}
	if err := w.follow(ctx); err != nil {
		return err
	}
	w.queued = append(w.queued, discovery.Change{Op: discovery.OpSynced})
	w.store.outage.end(w)
	return nil
}

// streamContext returns the context of a watch stream. The client library finds
// the stream of a request by the metadata of its context, so every request on a
// stream needs such a context.
func streamContext() (context.Context, context.CancelFunc) {
	return context.WithCancel(clientv3.WithRequireLeader(context.Background()))
}

// follow opens the watch. ctx bounds only the opening.
func (w *watcher) follow(ctx context.Context) error {
	watching, cancel := streamContext()
	w.stream, w.cancel = clientv3.NewWatcher(w.store.client), cancel
	stop := context.AfterFunc(ctx, cancel)
	w.events = w.stream.Watch(watching, w.prefix, clientv3.WithPrefix(), clientv3.WithRev(w.revision+1), clientv3.WithPrevKV())
	w.reached, w.awaited, w.pinged = w.revision, 0, time.Now()
	if !stop() {
		w.dropStream()
		return ctx.Err()
	}
	return nil
}

// dropStream ends the watch; the next step lists again.
func (w *watcher) dropStream() {
	if w.events != nil {
		w.cancel()
		_ = w.stream.Close() // returns the error of the context just cancelled
	}
	w.events, w.revision = nil, 0
}

// receive waits for the next response of the watch, and pings when it is time.
func (w *watcher) receive(ctx context.Context) error {
	timer := time.NewTimer(time.Until(w.pinged.Add(pingInterval)))
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
	causes := map[int64]discovery.Cause{} // by lease
	for _, ev := range resp.Events {
		if ev.Type == clientv3.EventTypePut {
			w.queued = append(w.queued, w.put(ev.Kv))
			continue
		}
		id, err := w.parse(ev.Kv.Key)
		if err != nil {
			continue // an invalid key that was removed
		}
		lease := unknownLease
		if ev.PrevKv != nil {
			lease = ev.PrevKv.Lease
		}
		if causes[lease] == 0 {
			causes[lease] = w.cause(ctx, lease)
		}
		w.queued = append(w.queued, discovery.Change{Op: discovery.OpDelete, ID: id, Key: string(ev.Kv.Key), Cause: causes[lease]})
	}
	if resp.IsProgressNotify() {
		w.reached = resp.Header.Revision
		w.reportProgress()
	}
	return nil
}

// reportProgress queues an OpProgress if the watch has reached the revision that
// is awaited. It reports whether none is awaited any more.
func (w *watcher) reportProgress() bool {
	if w.awaited > w.reached {
		return false
	}
	if w.awaited > 0 {
		w.queued = append(w.queued, discovery.Change{Op: discovery.OpProgress, AliveSince: w.awaitedAt})
		w.awaited = 0
	}
	return true
}

// parse returns the id of a key of either generation of Dynamo.
func (w *watcher) parse(key []byte) (discovery.ID, error) {
	return discovery.ParseDynamoKey(w.query.Kind, strings.TrimPrefix(string(key), w.bucket))
}

// put converts an entry into a Change, which is an OpInvalid if its key is invalid.
func (w *watcher) put(kv *mvccpb.KeyValue) discovery.Change {
	ch := discovery.Change{Op: discovery.OpPut, Key: string(kv.Key), Value: kv.Value}
	if ch.ID, ch.Err = w.parse(kv.Key); ch.Err != nil {
		ch.Op = discovery.OpInvalid
	}
	return ch
}

// unknownLease is that of an entry whose former value was compacted before the
// watch read it.
const unknownLease int64 = -1

// cause returns why an entry that was attached to a lease is gone. etcd does not
// report whether it was deleted or its lease expired, and as long as the store is
// reachable the difference does not matter: the removal is reported at once.
// After a fault, a lease that still exists shows that the entry was deleted
// on purpose.
func (w *watcher) cause(ctx context.Context, lease int64) discovery.Cause {
	switch {
	case lease == int64(clientv3.NoLease):
		return discovery.CauseUnregistered
	case time.Since(w.answered) > staleAfter:
		return discovery.CauseUncertain
	case !w.relisted && lease != unknownLease:
		return discovery.CauseExpired
	case lease == unknownLease:
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

// ping reads the store's revision, and requests the watch's progress towards it.
func (w *watcher) ping(ctx context.Context) error {
	w.pinged = time.Now()
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	resp, err := w.store.client.Get(ctx, w.prefix, clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	if resp.Header.Revision < w.latest {
		return fmt.Errorf("revision %d after %d: the store has lost its data", resp.Header.Revision, w.latest)
	}
	w.latest, w.answered = resp.Header.Revision, w.pinged
	if w.awaited == 0 {
		w.awaited, w.awaitedAt, w.stalled = w.latest, w.pinged, 0
	} else if w.stalled++; w.stalled > maxStalledPings {
		return fmt.Errorf("the watch does not reach revision %d", w.awaited)
	}
	if w.reportProgress() {
		return nil
	}
	// etcd sends no progress of its own accord for a watch without changes.
	request, cancelRequest := streamContext()
	defer cancelRequest()
	defer context.AfterFunc(ctx, cancelRequest)()
	return w.stream.RequestProgress(request)
}

// Close implements discovery.Watcher.
func (w *watcher) Close() error {
	w.store.outage.forget(w)
	w.dropStream()
	return nil
}
