package etcd

import (
	"errors"
	"log/slog"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// outage logs the beginning and the end of the time in which the watches of a
// store get no answers, during which they report no changes: once each, however
// many watches there are. Both are warnings, so that a log of warnings has both.
type outage struct {
	log *slog.Logger

	mu       sync.Mutex
	watchers map[*watcher]struct{} // without answers
}

// begin adds a watcher whose request has failed.
func (o *outage) begin(w *watcher, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.watchers) == 0 {
		o.log.Warn("etcd: the store does not answer, retrying; watches report no changes until it does", "error", err)
	}
	o.watchers[w] = struct{}{}
}

// end removes a watcher that has listed again.
func (o *outage) end(w *watcher) {
	if o.forget(w) {
		o.log.Warn("etcd: the store answers again")
	}
}

// forget removes a watcher, and reports whether it was the last one.
func (o *outage) forget(w *watcher) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, without := o.watchers[w]
	delete(o.watchers, w)
	return without && len(o.watchers) == 0
}

// isOutage reports whether an error of a watcher means that its view is stale. A
// watch that breaks while the store is reachable lists again at once; if that
// fails too, for any cause but the age of the revision, the view is stale.
func isOutage(err error, listing bool) bool {
	return isTransient(err) || listing && !errors.Is(err, rpctypes.ErrCompacted)
}
