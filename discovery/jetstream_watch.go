package discovery

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
)

// jetStreamWatcher follows the bucket with a pull consumer of its own. The
// watch of nats.go's KV API is blind for many seconds after a restart of the
// server, and for ever if the bucket is absent when it tries again.
//
// Each pull is answered within pullExpiry at the latest, on a subject of its
// own. So an answer proves that the server spoke after that pull was sent, and
// that all it had to deliver before came before; the missing of one, or of a
// consumer sequence, makes the watcher list again.
type jetStreamWatcher struct {
	store  *JetStream
	query  Query
	begun  bool     // the first listing has been delivered or is under way
	queued []Change // to be delivered before anything else

	sub      *nats.Subscription // nil while there is no consumer
	consumer string
	inbox    string
	pulls    uint64    // names the pull under way
	pulledAt time.Time // when it was sent
	pulled   int       // messages that it has delivered
	last     uint64    // consumer sequence
	pending  uint64    // still to come in the listing
	listing  bool
	absent   bool          // there is no bucket
	patience time.Duration // with the next listing
}

const (
	pullExpiry = 500 * time.Millisecond
	pullGrace  = time.Second // beyond the expiry, before the answer counts as missing
	pullBatch  = 5000
	pullBytes  = 16 << 20
	// How long a listing may take to begin. The server that is asked may be
	// going down and never answer; each time it takes longer it may take twice.
	listWait     = time.Second
	listWaitMost = 2 * time.Second
	// How often a watcher without a connection looks whether there is one.
	reconnectPoll = 50 * time.Millisecond
	// How often a watcher looks for a bucket that nobody has made yet.
	absentPoll = 200 * time.Millisecond
	// A watcher that is asked for nothing for so long lists again.
	consumerThreshold = 30 * time.Second
)

// Watch implements Store.
func (s *JetStream) Watch(_ context.Context, q Query) (Watcher, error) {
	if err := checkKey(keyFilter(q)); err != nil {
		return nil, err
	}
	w := &jetStreamWatcher{store: s, query: q, patience: listWait}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	s.watchers[w] = struct{}{}
	return w, nil
}

// Next implements Watcher.
func (w *jetStreamWatcher) Next(ctx context.Context) (Change, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Change{}, err
		}
		if len(w.queued) > 0 {
			ch := w.queued[0]
			w.queued = w.queued[1:]
			return ch, nil
		}
		if w.isClosed() {
			return Change{}, ErrClosed
		}
		err := w.step(ctx)
		if err != nil && ctx.Err() == nil {
			if w.isClosed() {
				return Change{}, ErrClosed
			}
			if !w.begun || errors.Is(err, nats.ErrConnectionClosed) {
				return Change{}, err
			}
			w.drop(err)
		}
	}
}

func (w *jetStreamWatcher) isClosed() bool {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	return w.store.closed
}

// step does one thing that may queue changes.
func (w *jetStreamWatcher) step(ctx context.Context) error {
	if w.subscription() == nil {
		return w.list(ctx)
	}
	return w.receive(ctx)
}

// subscription and the other accesses to sub hold the store's lock, since
// interrupt comes from another goroutine.
func (w *jetStreamWatcher) subscription() *nats.Subscription {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	return w.sub
}

// list begins a listing with a new consumer. The first one fails when the
// server says no or nothing for long; later ones try until ctx is done.
func (w *jetStreamWatcher) list(ctx context.Context) error {
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
		return fmt.Errorf("JetStream does not answer on %s; is it enabled (nats-server -js)?: %w", w.store.nc.ConnectedUrlRedacted(), err)
	}
	return err
}

func (w *jetStreamWatcher) listOnce(ctx context.Context) error {
	if !w.store.nc.IsConnected() {
		_ = sleep(ctx, reconnectPoll)
		return nats.ErrDisconnected
	}
	ctx, cancel := context.WithTimeout(ctx, w.patience)
	defer cancel()
	w.patience = min(2*w.patience, listWaitMost)
	asked := time.Now()
	consumer, err := w.store.js.CreateConsumer(ctx, w.store.stream(), jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy:         jetstream.AckNonePolicy,
		FilterSubject:     w.store.entrySubject(keyFilter(w.query)),
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: consumerThreshold,
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return w.waitForBucket(ctx, asked)
	}
	if err != nil {
		_ = sleep(ctx, retryWait)
		return err
	}
	info := consumer.CachedInfo()
	if err := w.subscribe(info.Name); err != nil {
		return err
	}
	w.patience = listWait
	w.absent, w.last, w.pending, w.listing = false, 0, info.NumPending, true
	w.queued = append(w.queued, Change{Op: OpReset})
	w.finishListing(w.pending == 0)
	return w.pull()
}

// waitForBucket takes a missing bucket as an empty one.
func (w *jetStreamWatcher) waitForBucket(ctx context.Context, asked time.Time) error {
	w.patience = listWait
	if w.absent {
		w.queued = append(w.queued, Change{Op: OpProgress, AliveSince: asked})
		return sleep(ctx, absentPoll)
	}
	w.absent = true
	w.queued = append(w.queued, Change{Op: OpReset}, Change{Op: OpSynced})
	return nil
}

func (w *jetStreamWatcher) subscribe(consumer string) error {
	w.inbox, w.consumer = nats.NewInbox(), consumer
	sub, err := w.store.nc.SubscribeSync(w.inbox + ".*")
	if err != nil {
		return err
	}
	// What can be pending is bounded by what is pulled.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.sub = sub
	return nil
}

// pull asks for the next messages: for so many bytes that any message fits.
// The server says nothing when it has sent exactly max_bytes. A listing that
// runs into that must not do so each time that it tries, hence the chance.
func (w *jetStreamWatcher) pull() error {
	request, err := json.Marshal(map[string]int64{
		"batch": pullBatch, "expires": int64(pullExpiry),
		"max_bytes": pullBytes + w.store.nc.MaxPayload() + rand.Int64N(1024),
	})
	if err != nil {
		return err
	}
	w.pulls++
	w.pulled, w.pulledAt = 0, time.Now()
	subject := "$JS.API.CONSUMER.MSG.NEXT." + w.store.stream() + "." + w.consumer
	return w.store.nc.PublishRequest(subject, w.inbox+"."+strconv.FormatUint(w.pulls, 10), request)
}

func (w *jetStreamWatcher) receive(ctx context.Context) error {
	// A slow reader finds the answer in the buffer, however late it asks.
	due := w.pulledAt.Add(pullExpiry + pullGrace)
	if soonest := time.Now().Add(pullExpiry); due.Before(soonest) {
		due = soonest
	}
	wait, cancel := context.WithDeadline(ctx, due)
	defer cancel()
	msg, err := w.subscription().NextMsgWithContext(wait)
	if err != nil {
		return err
	}
	// Told by the subject: a foreign entry may bear any header.
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
	// Markers expire while they are delivered, so counting alone could wait for ever.
	w.finishListing(w.pending == 0 || meta.NumPending == 0)
	if w.pulled++; w.pulled == pullBatch {
		return w.pull()
	}
	return nil
}

func (w *jetStreamWatcher) finishListing(done bool) {
	if w.listing && done {
		w.listing = false
		w.queued = append(w.queued, Change{Op: OpSynced})
	}
}

// status handles the end of a pull. If it came to its time, that is also the
// sign of life.
func (w *jetStreamWatcher) status(ctx context.Context, msg *nats.Msg, status string) error {
	if msg.Subject != w.inbox+"."+strconv.FormatUint(w.pulls, 10) {
		return nil // of an earlier pull
	}
	text := msg.Header.Get("Description")
	full := status == "409" && strings.Contains(text, "MaxBytes")
	if status != "408" && !full {
		return fmt.Errorf("the consumer says %s %s", status, text)
	}
	// The server counts what it sends: here shows what was lost on the way.
	if left := msg.Header.Get("Nats-Pending-Messages"); left != strconv.Itoa(pullBatch-w.pulled) {
		return fmt.Errorf("of a pull of %d messages %d came, and the server has %q left to send", pullBatch, w.pulled, left)
	}
	if full {
		return w.pull() // there is more, and it may be older than the pull
	}
	if w.listing {
		info, err := w.store.js.Consumer(ctx, w.store.stream(), w.consumer)
		if err != nil {
			return err
		}
		w.finishListing(info.CachedInfo().NumPending == 0)
	}
	w.queued = append(w.queued, Change{Op: OpProgress, AliveSince: w.pulledAt})
	return w.pull()
}

// drop gives the consumer up; the next step lists again.
func (w *jetStreamWatcher) drop(why error) {
	w.store.mu.Lock()
	sub := w.sub
	w.sub = nil
	w.store.mu.Unlock()
	if sub == nil {
		return
	}
	w.store.log.Debug("discovery: the watch gives up its consumer", "filter", keyFilter(w.query), "error", why)
	// Errors mean that the server is away; then both go by themselves.
	_ = sub.Unsubscribe()
	_ = w.store.nc.Publish("$JS.API.CONSUMER.DELETE."+w.store.stream()+"."+w.consumer, nil)
}

// interrupt wakes Next, which then finds the store closed. The store's lock is
// held.
func (w *jetStreamWatcher) interrupt() {
	if w.sub != nil {
		_ = w.sub.Unsubscribe()
	}
}

// Close implements Watcher.
func (w *jetStreamWatcher) Close() error {
	w.drop(nil)
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	delete(w.store.watchers, w)
	return nil
}
