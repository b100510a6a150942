package natskv

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
)

// Prompt implements discovery.Prompter.
func (w *watcher) Prompt() {
	select {
	case w.prompts <- struct{}{}:
	default: // the request of an earlier prompt has not been sent
	}
}

// prove finds out which message of the bucket is the last one for this watcher, by
// another consumer that begins there. The info of the watcher's own consumer does not
// show it: it counts messages a moment after they are stored, and thereby after
// their writers have an answer. If the request fails, the end of a pull is the proof.
func (w *watcher) prove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leastPatience)
	defer cancel()
	config := w.consumerConfig()
	config.DeliverPolicy = jetstream.DeliverLastPolicy
	now := time.Now()
	name, info, err := w.createConsumer(ctx, config)
	w.store.deleteConsumer(name)
	if err != nil || w.reconnects != w.store.nc.Stats().Reconnects {
		return
	}
	w.proves, w.provesSince = 0, now
	if info.NumPending > 0 {
		w.proves = info.Delivered.Stream + 1
	}
	w.finishProof()
}

// finishProof reports progress once everything has been delivered that was stored at
// the last prompt.
func (w *watcher) finishProof() {
	if w.lastStream >= w.proves && !w.provesSince.IsZero() {
		w.queued = append(w.queued, discovery.Change{Op: discovery.OpProgress, AliveSince: w.provesSince})
		w.provesSince = time.Time{}
	}
}
