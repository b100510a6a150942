package natskv

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/dynplane/dynplane/discovery"
)

// list begins a listing with a new consumer. The name of the consumer is the
// watcher's choice, so that it can be deleted whatever became of the request, and
// that a repeated request creates no second one.
func (w *watcher) list(ctx context.Context) error {
	if w.store.nc.IsClosed() {
		return nats.ErrConnectionClosed
	}
	if !w.store.nc.IsConnected() {
		_ = w.sleep(ctx, reconnectPoll)
		return nats.ErrDisconnected
	}
	ctx, end, err := w.store.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	w.consumer = newConsumerName()
	w.reconnects = w.store.nc.Stats().Reconnects
	requested := time.Now()
	info, err := w.createConsumer(ctx)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return w.waitForBucket(ctx, requested)
	}
	if err == nil {
		err = w.subscribe()
	}
	if err != nil {
		w.deleteConsumer()
		return err
	}
	w.begun = true
	w.unsubscribeCreated()
	w.absent, w.last, w.pending, w.listing = false, 0, info.NumPending, true
	w.queued = append(w.queued, discovery.Change{Op: discovery.OpReset})
	w.finishListing(w.pending == 0)
	return w.pull()
}

func newConsumerName() string { return "dynplane-" + nuid.Next() }

// createConsumer waits for the server for as long as the connection lasts. In a
// cluster, a request without an answer is repeated under another name: the consumer
// may have been placed on a server that was just lost, which alone could answer.
func (w *watcher) createConsumer(ctx context.Context) (info *jetstream.ConsumerInfo, err error) {
	s := w.store
	begun := time.Now()
	overdue := false
	err = s.retry(ctx, func(ctx context.Context) error {
		if overdue && s.isClustered() {
			w.deleteConsumer()
			w.consumer = newConsumerName()
		}
		if w.reconnects != s.nc.Stats().Reconnects || !s.nc.IsConnected() {
			return errConnectionLost
		}
		consumer, err := s.js.CreateConsumer(ctx, s.opt.readStream(), jetstream.ConsumerConfig{
			Name:              w.consumer,
			DeliverPolicy:     jetstream.DeliverLastPerSubjectPolicy,
			AckPolicy:         jetstream.AckNonePolicy,
			FilterSubject:     s.opt.readSubject(keyFilter(w.query)),
			MemoryStorage:     true,
			Replicas:          1,
			InactiveThreshold: consumerThreshold,
		})
		if err == nil {
			info = consumer.CachedInfo()
		}
		overdue = errors.Is(err, context.DeadlineExceeded)
		return s.answers(begun, err)
	})
	return info, err
}

// errConnectionLost ends a request whose answer may have gone to a former
// connection.
var errConnectionLost = errors.New("the connection was lost")

// waitForBucket treats a missing bucket as an empty one.
func (w *watcher) waitForBucket(ctx context.Context, requested time.Time) error {
	w.begun = true
	if !w.absent {
		w.absent = true
		w.queued = append(w.queued, discovery.Change{Op: discovery.OpReset}, discovery.Change{Op: discovery.OpSynced})
		return w.subscribeCreated()
	}
	w.queued = append(w.queued, discovery.Change{Op: discovery.OpProgress, AliveSince: requested})
	timer := time.NewTimer(min(w.backoff.Next()+absentPoll/20, absentPoll))
	defer timer.Stop()
	select {
	case <-w.msgs: // the bucket was created
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// subscribeCreated subscribes to the advisory of the server that the stream of the
// bucket was created. The next step lists again, in case that it was before.
func (w *watcher) subscribeCreated() (err error) {
	w.msgs = make(chan *nats.Msg, 16)
	subject := "$JS.EVENT.ADVISORY.STREAM.CREATED." + w.store.opt.readStream()
	w.created, err = w.store.nc.ChanSubscribe(subject, w.msgs)
	return err
}

func (w *watcher) unsubscribeCreated() {
	if w.created != nil {
		_ = w.created.Unsubscribe()
		w.created = nil
	}
}

func (w *watcher) subscribe() (err error) {
	w.inbox = nats.NewInbox()
	// The pulls bound what can be pending: one batch, and the answers to pulls.
	w.msgs = make(chan *nats.Msg, 2*pullBatch)
	w.sub, err = w.store.nc.ChanSubscribe(w.inbox+".*", w.msgs)
	return err
}

// dropConsumer deletes the consumer; the next step lists again.
func (w *watcher) dropConsumer(why error) {
	if w.sub == nil {
		return
	}
	if why != nil {
		w.store.log.Debug("natskv: watch failed, listing again with a new consumer", "filter", keyFilter(w.query), "error", why)
	}
	// An error means that the connection is closed.
	_ = w.sub.Unsubscribe()
	w.sub = nil
	w.deleteConsumer()
}

// deleteConsumer does not wait for the answer. If the server is unreachable, the
// consumer ends by itself.
func (w *watcher) deleteConsumer() {
	_ = w.store.nc.Publish(w.store.opt.apiSubject("CONSUMER.DELETE", w.store.opt.readStream())+"."+w.consumer, nil)
}

const (
	// presentBatch bounds the entries of one request of Present, and presentBytes
	// the bytes of their names.
	presentBatch = 500
	presentBytes = 256 << 10
	// presentTimeout bounds a call of Present, during which the watch does not
	// continue.
	presentTimeout = 5 * time.Second
)

// Present implements discovery.Confirmer by the write stream, which the bucket
// follows. After a fault it may do so much later.
func (w *watcher) Present(ctx context.Context, ids []discovery.ID) (present []discovery.ID, err error) {
	ctx, end, err := w.store.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, presentTimeout)
	defer cancel()
	for len(ids) > 0 {
		n, size := 0, 0
		var subjects []string
		for n < len(ids) && n < presentBatch && size < presentBytes {
			subjects = append(subjects, w.store.opt.entrySubject(encodeKey(ids[n])))
			size += len(subjects[n])
			n++
		}
		var found []discovery.ID
		err := w.store.retry(ctx, func(ctx context.Context) error {
			found, err = w.store.livingOf(ctx, subjects)
			if errors.Is(err, nats.ErrNoResponders) && w.store.isGone(ctx) {
				return jetstream.ErrStreamNotFound
			}
			return err
		})
		if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, nats.ErrPermissionViolation) {
			return nil, nil // the other copy does not exist for this reader
		}
		if err != nil {
			return nil, err
		}
		present, ids = append(present, found...), ids[n:]
	}
	return present, nil
}
