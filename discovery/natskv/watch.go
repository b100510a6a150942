package natskv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

// watcher follows the bucket with a pull consumer of its own. The watch of
// nats.go's KV API receives nothing for many seconds after a restart of the
// server, and never anything again if the bucket is absent when it retries.
//
// Each pull is answered within pullExpiry at the latest, on a subject of its
// own. The answer proves that the server was reachable after that pull was
// sent, and that all earlier messages have been delivered. If an answer or a
// consumer sequence is missing, the watcher lists again.
type watcher struct {
	store  *Store
	query  discovery.Query
	begun  bool               // the first listing has been delivered or is under way
	queued []discovery.Change // delivered before anything else

	sub         *nats.Subscription // nil while there is no consumer
	consumer    string
	inbox       string
	pulls       uint64    // number of the current pull
	pulledAt    time.Time // when it was sent
	pulled      int       // messages that it has delivered
	last        uint64    // consumer sequence
	pending     uint64    // messages still to come in the listing
	listing     bool
	absent      bool          // there is no bucket
	listTimeout time.Duration // of the next listing
}

const (
	pullExpiry = 500 * time.Millisecond
	pullGrace  = time.Second // after the expiry, before the answer counts as missing
	pullBatch  = 5000
	pullBytes  = 16 << 20
	// How long a listing may take to begin. The server that received the
	// request may be shutting down and never answer; after each time-out the
	// next attempt gets twice as long.
	minListTimeout = time.Second
	maxListTimeout = 2 * time.Second
	// How often a disconnected watcher checks the connection.
	reconnectPoll = 50 * time.Millisecond
	// How often a watcher looks for a bucket that does not exist.
	absentPoll = 200 * time.Millisecond
	// The server deletes a consumer without a pull after this time; its watcher
	// then lists again.
	consumerThreshold = 30 * time.Second
)

// Watch implements discovery.Store.
func (s *Store) Watch(_ context.Context, q discovery.Query) (discovery.Watcher, error) {
	if err := checkKey(keyFilter(q)); err != nil {
		return nil, err
	}
	w := &watcher{store: s, query: q, listTimeout: minListTimeout}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, discovery.ErrClosed
	}
	s.watchers[w] = struct{}{}
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
		if w.isClosed() {
			return discovery.Change{}, discovery.ErrClosed
		}
		err := w.step(ctx)
		if err != nil && ctx.Err() == nil {
			if w.isClosed() {
				return discovery.Change{}, discovery.ErrClosed
			}
			if !w.begun || errors.Is(err, nats.ErrConnectionClosed) {
				return discovery.Change{}, err
			}
			w.dropConsumer(err)
		}
	}
}

func (w *watcher) isClosed() bool {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	return w.store.closed
}

// step performs one action that may queue changes.
func (w *watcher) step(ctx context.Context) error {
	if w.subscription() == nil {
		return w.list(ctx)
	}
	return w.receive(ctx)
}

// subscription and all other accesses to sub hold the store's lock, since
// interrupt is called by another goroutine.
func (w *watcher) subscription() *nats.Subscription {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	return w.sub
}

// list begins a listing with a new consumer. The first one fails if the server
// refuses it or does not answer for long; later ones retry until ctx is done.
func (w *watcher) list(ctx context.Context) error {
	if w.begun {
		return w.listOnce(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	err := retry(ctx, w.listOnce)
	if err == nil {
		w.begun = true
	}
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) {
		return w.store.noJetStream(err)
	}
	return err
}

func (w *watcher) listOnce(ctx context.Context) error {
	if !w.store.nc.IsConnected() {
		_ = wait.Sleep(ctx, reconnectPoll)
		return nats.ErrDisconnected
	}
	ctx, cancel := context.WithTimeout(ctx, w.listTimeout)
	defer cancel()
	w.listTimeout = min(2*w.listTimeout, maxListTimeout)
	requested := time.Now()
	consumer, err := w.store.js.CreateConsumer(ctx, w.store.opt.stream(), jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy:         jetstream.AckNonePolicy,
		FilterSubject:     w.store.opt.entrySubject(keyFilter(w.query)),
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: consumerThreshold,
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return w.waitForBucket(ctx, requested)
	}
	if err != nil {
		_ = wait.Sleep(ctx, retryWait)
		return err
	}
	info := consumer.CachedInfo()
	if err := w.subscribe(info.Name); err != nil {
		return err
	}
	w.listTimeout = minListTimeout
	w.absent, w.last, w.pending, w.listing = false, 0, info.NumPending, true
	w.queued = append(w.queued, discovery.Change{Op: discovery.OpReset})
	w.finishListing(w.pending == 0)
	return w.pull()
}

// waitForBucket treats a missing bucket as an empty one.
func (w *watcher) waitForBucket(ctx context.Context, requested time.Time) error {
	w.listTimeout = minListTimeout
	if w.absent {
		w.queued = append(w.queued, discovery.Change{Op: discovery.OpProgress, AliveSince: requested})
		return wait.Sleep(ctx, absentPoll)
	}
	w.absent = true
	w.queued = append(w.queued, discovery.Change{Op: discovery.OpReset}, discovery.Change{Op: discovery.OpSynced})
	return nil
}

func (w *watcher) subscribe(consumer string) error {
	w.inbox, w.consumer = nats.NewInbox(), consumer
	sub, err := w.store.nc.SubscribeSync(w.inbox + ".*")
	if err != nil {
		return err
	}
	// Each pull bounds what can be pending.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.sub = sub
	return nil
}

// pull requests the next messages, with a limit in bytes that any one message
// fits into. The server sends no answer if it has sent exactly max_bytes; the
// random part keeps a repeated listing from meeting that case each time.
func (w *watcher) pull() error {
	request, err := json.Marshal(map[string]int64{
		"batch": pullBatch, "expires": int64(pullExpiry),
		"max_bytes": pullBytes + w.store.nc.MaxPayload() + rand.Int64N(1024),
	})
	if err != nil {
		return err
	}
	w.pulls++
	w.pulled, w.pulledAt = 0, time.Now()
	return w.store.nc.PublishRequest(w.store.opt.apiSubject("CONSUMER.MSG.NEXT")+"."+w.consumer, w.pullInbox(), request)
}

// pullInbox is the subject on which the current pull is answered.
func (w *watcher) pullInbox() string { return w.inbox + "." + strconv.FormatUint(w.pulls, 10) }

func (w *watcher) receive(ctx context.Context) error {
	// A slow reader finds the answer in the buffer, however late it calls.
	due := w.pulledAt.Add(pullExpiry + pullGrace)
	if soonest := time.Now().Add(pullExpiry); due.Before(soonest) {
		due = soonest
	}
	waiting, cancel := context.WithDeadline(ctx, due)
	defer cancel()
	msg, err := w.subscription().NextMsgWithContext(waiting)
	if err != nil {
		return err
	}
	// The subject decides, since any writer can put any header on an entry.
	if strings.HasPrefix(msg.Subject, w.inbox) {
		return w.status(ctx, msg, msg.Header.Get("Status"))
	}
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	if meta.Sequence.Consumer != w.last+1 {
		return fmt.Errorf("message %d of the consumer after %d", meta.Sequence.Consumer, w.last)
	}
	w.last++
	w.queued = append(w.queued, w.change(msg, meta))
	if w.pending > 0 {
		w.pending--
	}
	// Markers expire during the listing, so that counting alone might never end.
	w.finishListing(w.pending == 0 || meta.NumPending == 0)
	if w.pulled++; w.pulled == pullBatch {
		return w.pull()
	}
	return nil
}

func (w *watcher) finishListing(done bool) {
	if w.listing && done {
		w.listing = false
		w.queued = append(w.queued, discovery.Change{Op: discovery.OpSynced})
	}
}

// status handles the end of a pull. One that expired also shows that the
// server is reachable.
func (w *watcher) status(ctx context.Context, msg *nats.Msg, status string) error {
	if msg.Subject != w.pullInbox() {
		return nil // of an earlier pull
	}
	text := msg.Header.Get("Description")
	full := status == "409" && strings.Contains(text, "MaxBytes")
	if status != "408" && !full {
		return fmt.Errorf("the consumer ended the pull: %s %s", status, text)
	}
	// The server counts what it sends, which reveals messages lost on the way.
	if left := msg.Header.Get("Nats-Pending-Messages"); left != strconv.Itoa(pullBatch-w.pulled) {
		return fmt.Errorf("a pull of %d messages delivered %d, and the server has %q left to send", pullBatch, w.pulled, left)
	}
	if full {
		return w.pull() // more messages wait, and they may be older than the pull
	}
	if w.listing {
		info, err := w.store.js.Consumer(ctx, w.store.opt.stream(), w.consumer)
		if err != nil {
			return err
		}
		w.finishListing(info.CachedInfo().NumPending == 0)
	}
	w.queued = append(w.queued, discovery.Change{Op: discovery.OpProgress, AliveSince: w.pulledAt})
	return w.pull()
}

// dropConsumer deletes the consumer; the next step lists again.
func (w *watcher) dropConsumer(why error) {
	w.store.mu.Lock()
	sub := w.sub
	w.sub = nil
	w.store.mu.Unlock()
	if sub == nil {
		return
	}
	w.store.log.Debug("natskv: watch failed, listing again with a new consumer", "filter", keyFilter(w.query), "error", why)
	// Errors mean that the server is unreachable; then both end by themselves.
	_ = sub.Unsubscribe()
	_ = w.store.nc.Publish(w.store.opt.apiSubject("CONSUMER.DELETE")+"."+w.consumer, nil)
}

// interrupt wakes Next, which then returns ErrClosed. It requires the store's
// lock.
func (w *watcher) interrupt() {
	if w.sub != nil {
		_ = w.sub.Unsubscribe()
	}
}

// Close implements discovery.Watcher.
func (w *watcher) Close() error {
	w.dropConsumer(nil)
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	delete(w.store.watchers, w)
	return nil
}
