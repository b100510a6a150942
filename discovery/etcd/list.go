package etcd

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
)

const (
	pageSize = 500
	// beginTimeout bounds the first listing as long as nothing has been read: a
	// store that accepts requests may be slow, but one that does not is down.
	beginTimeout = 30 * time.Second
)

// mayBegin reports whether the first listing may succeed after an error.
func (w *watcher) mayBegin(err error) bool {
	waited := time.Since(w.since)
	return isTransient(err) && (waited < retryTimeout || isTimeout(err) && waited < beginTimeout)
}

// list reads one page. All pages are read at the revision of the first one; a page
// that cannot be read is requested again, unless it may be that of another server.
func (w *watcher) list(ctx context.Context) error {
	ended := w.store.connections.ended.Load()
	if w.revision == 0 || ended != w.ended {
		w.revision, w.nextKey, w.ended = 0, w.from, ended
	}
	requested := time.Now()
	resp, err := w.store.client.Get(ctx, w.nextKey,
		clientv3.WithRange(w.to), clientv3.WithLimit(pageSize), clientv3.WithRev(w.revision))
	if err != nil {
		return err
	}
	if w.revision == 0 {
		if w.begun {
			w.relisted = time.Now()
		}
		w.begun = true
		w.revision, w.latest, w.answered = resp.Header.Revision, resp.Header.Revision, requested
		w.queue(discovery.Change{Op: discovery.OpReset})
	}
	for _, kv := range resp.Kvs {
		w.put(kv)
	}
	if resp.More {
		w.nextKey = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		return nil
	}
	if err := w.follow(ctx); err != nil {
		return err
	}
	w.queue(discovery.Change{Op: discovery.OpSynced})
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
	f := following{stream: clientv3.NewWatcher(w.store.client), cancel: cancel, reached: w.revision, progressed: time.Now()}
	stop := context.AfterFunc(ctx, cancel)
	f.events = f.stream.Watch(watching, w.from, clientv3.WithRange(w.to), clientv3.WithRev(w.revision+1), clientv3.WithPrevKV())
	f.pinger = newPinger()
	w.following = f
	if !stop() {
		w.dropStream()
		return ctx.Err()
	}
	return nil
}

// dropStream ends the watch.
func (w *watcher) dropStream() {
	if w.events != nil {
		w.cancel()
		w.stopPing()
		_ = w.stream.Close() // returns the error of the context just cancelled
	}
	w.following = following{}
}

// startOver ends the watch or the listing; the next step begins another listing.
func (w *watcher) startOver() {
	w.dropStream()
	w.revision = 0
}
