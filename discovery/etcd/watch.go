package etcd

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

// watcher lists page by page and then follows from the revision of the listing.
//
// The client library resumes a broken watch silently and forever, so the watch
// itself does not reveal an outage. Twice a second the watcher therefore pings
// the store with a linearizable read. Once the watch has reached the revision of
// that read, all earlier changes have been delivered.
//
// The watcher lists again if a connection has ended, since the server at the other
// end of the next one may have lost its data, if a ping returns an older revision
// than before, or if the watch makes no progress for long. It does not if the
// store is merely slow, which listings would make worse; leases may expire then,
// and their removals are uncertain.
type watcher struct {
	store   *Store
	query   discovery.Query
	buckets []bucket // of the kinds of the query; none if it matches nothing
	from    string   // the first key of the range that is read
	to      string   // the first key after it

	begun    bool               // the first page has been read
	since    time.Time          // when the first listing was requested
	queued   []discovery.Change // delivered before anything else
	requests patience
	backoff  wait.Backoff // between listings, and between attempts at a page

	revision int64  // of the listing; zero before its first page
	nextKey  string // at which the next page begins
	ended    int64  // connections that had ended when the listing began
	faults          // that make removals uncertain

	following                // nil events while listing
	running   sync.WaitGroup // pings
}

// bucket is the place of a kind.
type bucket struct {
	kind   discovery.Kind
	prefix string // with a slash at its end
}

// following is the state of a watch after its listing.
type following struct {
	stream clientv3.Watcher   // its own, so that no other watch delays it
	cancel context.CancelFunc // of the stream
	events clientv3.WatchChan // nil while listing
	pinger

	reached    int64     // the revision up to which the watch has delivered all changes
	progressed time.Time // when it delivered something
}

// Watch implements discovery.Store. Several kinds are one range of keys, so that
// their listing is consistent; other keys in that range are skipped.
func (s *Store) Watch(_ context.Context, q discovery.Query) (discovery.Watcher, error) {
	if s.isClosed() {
		return nil, discovery.ErrClosed
	}
	w := &watcher{store: s, query: q, since: time.Now(), backoff: wait.Backoff{Min: 500 * time.Millisecond, Max: 5 * time.Second}}
	for _, kind := range q.Kinds() {
		name, err := discovery.DynamoBucket(kind)
		if err != nil {
			return nil, err
		}
		b := bucket{kind, name + "/"}
		w.buckets = append(w.buckets, b)
		if end := clientv3.GetPrefixRangeEnd(b.prefix); end > w.to {
			w.to = end
		}
		if w.from == "" || b.prefix < w.from {
			w.from = b.prefix
		}
	}
	if len(w.buckets) == 1 && w.query.Kind == w.buckets[0].kind {
		w.from += discovery.DynamoPrefix(q)
		w.to = clientv3.GetPrefixRangeEnd(w.from)
	}
	if len(w.buckets) == 0 {
		w.queued = []discovery.Change{{Op: discovery.OpReset}, {Op: discovery.OpSynced}}
	}
	return w, nil
}

// Next implements discovery.Watcher.
func (w *watcher) Next(ctx context.Context) (discovery.Change, error) {
	bounded, cancel := wait.Until(ctx, w.store.life)
	defer cancel()
	for {
		if w.store.isClosed() {
			return discovery.Change{}, discovery.ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return discovery.Change{}, err
		}
		if len(w.queued) > 0 {
			ch := w.queued[0]
			w.queued = w.queued[1:]
			return ch, nil
		}
		err := w.step(bounded)
		if err == nil || bounded.Err() != nil {
			continue
		}
		listing := w.events == nil
		if !w.begun && !w.mayBegin(err) {
			return discovery.Change{}, w.store.located(err)
		}
		w.store.log.Debug("etcd: watch failed, retrying", "from", w.from, "error", err)
		if isOutage(err, listing) {
			w.store.outage.begin(w, w.store.located(err))
		}
		if !listing || !isTransient(err) {
			w.startOver()
		}
		_ = wait.Sleep(bounded, w.backoff.Next())
	}
}

// step performs one action that may queue changes.
func (w *watcher) step(ctx context.Context) error {
	switch {
	case len(w.buckets) == 0: // matches nothing
		<-ctx.Done()
		return nil
	case w.events != nil:
		return w.receive(ctx)
	}
	err := w.requests.request(ctx, w.list)
	if err == nil {
		w.backoff.Reset()
	}
	return err
}

// receive waits for the next response of the watch or of a ping, and pings when it
// is time.
func (w *watcher) receive(ctx context.Context) error {
	timer := time.NewTimer(time.Until(w.nextPing))
	defer timer.Stop()
	due := timer.C
	if w.pinging {
		due = nil
	}
	select {
	case resp, ok := <-w.events:
		if !ok {
			return errors.New("the watch ended")
		}
		return w.apply(ctx, &resp)
	case r := <-w.pongs:
		return w.observePong(r)
	case <-due:
		w.ping()
	case <-ctx.Done():
	}
	return nil
}

// apply queues the changes of a response.
func (w *watcher) apply(ctx context.Context, resp *clientv3.WatchResponse) error {
	if err := resp.Err(); err != nil {
		return err
	}
	if err := w.sameConnections(); err != nil {
		return err // before removals that an outage may have caused
	}
	w.progressed = time.Now()
	causes := w.causes(ctx, resp.Events)
	for _, ev := range resp.Events {
		if ev.Type == clientv3.EventTypePut {
			w.put(ev.Kv)
			continue
		}
		id, err := w.parse(ev.Kv.Key)
		if err != nil || !w.query.Match(id) {
			continue // an invalid key that was removed
		}
		w.queue(discovery.Change{Op: discovery.OpDelete, ID: id, Key: string(ev.Kv.Key), Cause: causes[leaseOf(ev)]})
	}
	if resp.IsProgressNotify() {
		w.reached = resp.Header.Revision
		w.reportProgress()
	}
	return nil
}

func (w *watcher) queue(ch discovery.Change) { w.queued = append(w.queued, ch) }

// errOtherKey is the error of a key between the buckets of several kinds.
var errOtherKey = errors.New("in none of the buckets")

// parse returns the id of a key of either generation of Dynamo.
func (w *watcher) parse(key []byte) (discovery.ID, error) {
	for _, b := range w.buckets {
		if rest, ok := strings.CutPrefix(string(key), b.prefix); ok {
			return discovery.ParseDynamoKey(b.kind, rest)
		}
	}
	return discovery.ID{}, errOtherKey
}

// put queues an entry, or an OpInvalid if its key is invalid.
func (w *watcher) put(kv *mvccpb.KeyValue) {
	id, err := w.parse(kv.Key)
	switch {
	case errors.Is(err, errOtherKey):
	case err != nil:
		w.queue(discovery.Change{Op: discovery.OpInvalid, Key: string(kv.Key), Err: err})
	case w.query.Match(id):
		w.queue(discovery.Change{Op: discovery.OpPut, ID: id, Key: string(kv.Key), Value: kv.Value})
	}
}

// Close implements discovery.Watcher.
func (w *watcher) Close() error {
	w.store.outage.forget(w)
	w.startOver()
	w.running.Wait()
	return nil
}
