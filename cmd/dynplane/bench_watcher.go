package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// benchWatcher follows the entries of a bench. By default each has a connection of
// its own, as if it were a process of its own.
type benchWatcher struct {
	*benchClient

	synced chan struct{} // closed with Synced
	gone   chan struct{} // closed when all entries of killed clients are removed
	done   chan struct{} // closed at the end of the watch

	rested  bool   // the time at rest is over
	resting uint64 // messages received meanwhile

	mu       sync.Mutex // guards what is below
	err      error      // that ended the watch
	took     time.Duration
	listed   int // entries that were added before Synced
	messages uint64
	bytes    uint64          // received until Synced
	removals []time.Duration // of entries of killed clients, since the kill
	wrong    int             // removals of other entries
}

func newBenchWatcher(c *benchClient) *benchWatcher {
	return &benchWatcher{
		benchClient: c, synced: make(chan struct{}), gone: make(chan struct{}), done: make(chan struct{}),
	}
}

// follow watches until ctx is done.
func (w *benchWatcher) follow(ctx context.Context, b *bench) {
	defer close(w.done)
	killed := b.killedEntries()
	begun := time.Now()
	for ev, err := range w.client.Watch(ctx, discovery.Query{Kind: discovery.KindEndpoint, Scope: discovery.Scope{Namespace: b.namespace}}) {
		w.mu.Lock()
		switch {
		case err != nil && ctx.Err() == nil:
			w.err = err
		case err != nil:
		case ev.Type == discovery.Removed:
			w.removed(b, int(ev.Instance.InstanceID)-1, killed)
		case ev.Type == discovery.Synced:
			w.took = time.Since(begun)
			w.messages, w.bytes = w.nc.Stats().InMsgs, w.nc.Stats().InBytes
			close(w.synced)
		case w.took == 0:
			w.listed++
		}
		w.mu.Unlock()
	}
}

// removed requires w.mu. The watcher is done after the removal of all killed entries.
func (w *benchWatcher) removed(b *bench, owner, killed int) {
	at := b.workers[b.clientOf(owner)].killedAt.Load()
	if at == nil {
		w.wrong++
		return
	}
	w.removals = append(w.removals, time.Since(*at))
	if len(w.removals) == killed {
		close(w.gone)
	}
}

// wait blocks until a watcher has reached a state.
func (w *benchWatcher) wait(ctx context.Context, state <-chan struct{}) error {
	select {
	case <-state:
		return nil
	case <-w.done:
		w.mu.Lock()
		defer w.mu.Unlock()
		return errors.Join(errors.New("a watch has ended"), w.err)
	case <-ctx.Done():
		return ctx.Err()
	}
}
