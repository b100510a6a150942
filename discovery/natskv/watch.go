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
// sent, and that all earlier messages have been delivered. If a message was lost,
// or the connection was, the watcher lists again. If an answer is only late, it
// first requests how much the server has sent, and continues if it has it all.
type watcher struct {
	store     *Store
	query     discovery.Query
	prefix    string             // of the subjects of the bucket, before the key
	begun     bool               // the first listing has been delivered or is under way
	queued    []discovery.Change // delivered before anything else
	since     time.Time          // the first call of Next
	found     bool               // there has been a bucket
	absent    bool               // there is no bucket
	lost      time.Time          // when that was noticed
	expecting bool               // and the subscription to created was followed by a request
	created   *nats.Subscription // of the advisory that a bucket was created; nil while there is one
	backoff   wait.Backoff
	patience  time.Duration // for the next answer

	sub        *nats.Subscription // nil while there is no consumer
	msgs       chan *nats.Msg
	consumer   string
	inbox      string
	reconnects uint64    // of the connection, when the consumer was created
	pulls      uint64    // number of the current pull
	pulledAt   time.Time // when it was sent
	pulled     int       // messages that it has delivered
	last       uint64    // consumer sequence
	lastStream uint64    // stream sequence
	pending    uint64    // messages still to come in the listing
	listing    bool
	admitted   admittedListing // the listing, if it is large
	crowded    bool            // the next listing waits for admission first

	prompts        chan struct{} // of capacity one
	proves         uint64        // the stream sequence that proves everything before provesSince
	provesSince    time.Time     // zero if no proof is under way
	uncertainUntil time.Time     // in the server's time: leases that expire earlier may have living owners
}

const (
	pullExpiry = 1100 * time.Millisecond
	pullBatch  = 5000
	pullBytes  = 16 << 20
	// The patience for an answer doubles from least to most while answers are
	// late: a server that is slow must not get more requests for it.
	leastPatience = pullExpiry + 1500*time.Millisecond
	mostPatience  = 30 * time.Second
	// How often a watcher that waits for messages checks whether the connection was
	// closed for good.
	closedPoll = 500 * time.Millisecond
	// How often a disconnected watcher checks the connection.
	reconnectPoll = 50 * time.Millisecond
	// How long a first listing may fail to begin while there is no connection.
	connectTimeout = 10 * time.Second
	// How often a watcher looks for a bucket that does not exist, on average. It also
	// receives the server's advisory that one was created, where that is permitted.
	absentPoll = 10 * time.Second
	// The same at first for a bucket that was deleted.
	leastAbsentPoll = time.Second
	// The server deletes a consumer without a pull after this time; its watcher
	// then lists again.
	consumerThreshold = 30 * time.Second
)

// Watch implements discovery.Store.
func (s *Store) Watch(_ context.Context, q discovery.Query) (discovery.Watcher, error) {
	if err := checkKey(keyFilter(q)); err != nil {
		return nil, err
	}
	if s.life.Err() != nil {
		return nil, discovery.ErrClosed
	}
	return &watcher{
		store: s, query: q, prefix: s.opt.readSubject(""), patience: leastPatience,
		prompts: make(chan struct{}, 1),
		backoff: wait.Backoff{Min: 50 * time.Millisecond, Max: 5 * time.Second},
	}, nil
}

// Next implements discovery.Watcher.
func (w *watcher) Next(ctx context.Context) (discovery.Change, error) {
	if w.since.IsZero() {
		w.since = time.Now()
	}
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
		if w.store.life.Err() != nil {
			return discovery.Change{}, discovery.ErrClosed
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		if errors.Is(err, nats.ErrConnectionClosed) || !w.begun && !w.mayBegin(err) {
			return discovery.Change{}, err
		}
		w.dropConsumer(err)
		_ = w.sleep(ctx, w.backoff.Next())
	}
}

// mayBegin reports whether a first listing that has failed may succeed later.
func (w *watcher) mayBegin(err error) bool {
	if !w.store.nc.IsConnected() {
		return time.Since(w.since) <= connectTimeout
	}
	return isTransient(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errConnectionLost)
}

// sleep ends early with ctx, and with the store.
func (w *watcher) sleep(ctx context.Context, d time.Duration) error {
	ctx, cancel := wait.Until(ctx, w.store.life)
	defer cancel()
	return wait.Sleep(ctx, d)
}

// step performs one action that may queue changes.
func (w *watcher) step(ctx context.Context) error {
	if w.sub == nil {
		return w.list(ctx)
	}
	return w.receive(ctx)
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
	w.admitted.progress()
	w.pulls++
	w.pulled, w.pulledAt = 0, time.Now()
	subject := w.store.opt.apiSubject("CONSUMER.MSG.NEXT", w.store.opt.readStream()) + "." + w.consumer
	return w.store.nc.PublishRequest(subject, w.pullInbox(), request)
}

// pullInbox is the subject on which the current pull is answered.
func (w *watcher) pullInbox() string { return w.inbox + "." + strconv.FormatUint(w.pulls, 10) }

func (w *watcher) receive(ctx context.Context) error {
	select {
	case msg := <-w.msgs:
		return w.take(ctx, msg)
	default:
	}
	// A slow reader finds the answer in the buffer, however late it calls.
	overdue := time.NewTimer(max(time.Until(w.pulledAt)+w.patience, pullExpiry))
	defer overdue.Stop()
	closed := time.NewTicker(closedPoll)
	defer closed.Stop()
	for {
		select {
		case msg := <-w.msgs:
			return w.take(ctx, msg)
		case <-ctx.Done():
			return ctx.Err()
		case <-w.store.life.Done():
			return discovery.ErrClosed
		case <-w.prompts:
			w.prove(ctx)
			return nil
		case <-overdue.C:
			return w.overdue(ctx)
		case <-closed.C:
			if w.store.nc.IsClosed() {
				return nats.ErrConnectionClosed
			}
		}
	}
}

func (w *watcher) take(ctx context.Context, msg *nats.Msg) error {
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
	w.lastStream = meta.Sequence.Stream
	w.queued = append(w.queued, w.change(msg, meta))
	if w.pending > 0 {
		w.pending--
	}
	// Markers expire during the listing, so that counting alone might never end.
	w.finishListing(w.pending == 0 || meta.NumPending == 0)
	w.finishProof()
	if w.pulled++; w.pulled == pullBatch {
		return w.pull()
	}
	return nil
}

func (w *watcher) finishListing(done bool) {
	if w.listing && done {
		w.listing = false
		w.admitted.release()
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
	if w.reconnects != w.store.nc.Stats().Reconnects {
		return errors.New("messages may have been sent to a connection that was lost")
	}
	// The server counts what it sends, which reveals messages lost on the way.
	if left := msg.Header.Get("Nats-Pending-Messages"); left != strconv.Itoa(pullBatch-w.pulled) {
		return fmt.Errorf("a pull of %d messages delivered %d, and the server has %q left to send", pullBatch, w.pulled, left)
	}
	w.patience = leastPatience
	w.backoff.Reset()
	if full {
		return w.pull() // more messages wait, and they may be older than the pull
	}
	if w.listing {
		info, err := w.progress(ctx)
		if err != nil {
			return err
		}
		w.finishListing(info.NumPending == 0)
	}
	w.queued = append(w.queued, discovery.Change{Op: discovery.OpProgress, AliveSince: w.pulledAt})
	return w.pull()
}

// overdue continues with a new pull if the answer to the last one is late, but
// everything that the server has sent was received.
func (w *watcher) overdue(ctx context.Context) error {
	if !w.store.nc.IsConnected() || w.reconnects != w.store.nc.Stats().Reconnects {
		return nats.ErrDisconnected
	}
	info, err := w.progress(ctx)
	if err != nil {
		return err
	}
	w.patience = min(2*w.patience, mostPatience)
	// Owners may have been unable to reach the server as well. The time is that of
	// the answer: a store that only reads has never measured its clock.
	w.uncertainUntil = info.TimeStamp.Add(w.store.opt.TTL)
	if len(w.msgs) > 0 {
		return nil
	}
	if delivered := info.Delivered.Consumer; delivered != w.last {
		return fmt.Errorf("the consumer has delivered %d messages, and %d were received", delivered, w.last)
	}
	return w.pull()
}

// progress returns how many messages the consumer has delivered, and how many it
// has not.
func (w *watcher) progress(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	ctx, end, err := w.store.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, w.patience)
	defer cancel()
	consumer, err := w.store.js.Consumer(ctx, w.store.opt.readStream(), w.consumer)
	if err != nil {
		return nil, err
	}
	return consumer.CachedInfo(), nil
}

// Close implements discovery.Watcher.
func (w *watcher) Close() error {
	w.dropConsumer(nil)
	w.unsubscribeCreated()
	return nil
}
