package natskv

import (
	"context"
	crand "crypto/rand"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
)

// list begins a listing with a new consumer. The name of the consumer is the
// watcher's choice, so that it can be deleted whatever became of the request, and
// that a repeated request creates no second one.
func (w *watcher) list(ctx context.Context) error {
	if err := w.awaitConnection(ctx); err != nil {
		return err
	}
	if err := w.awaitCreation(ctx); err != nil {
		return err
	}
	if w.crowded {
		if _, err := w.admitted.admit(ctx, w.store.life, nil); err != nil {
			return err
		}
		w.crowded = false
	}
	ctx, end, err := w.store.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	w.reconnects = w.store.nc.Stats().Reconnects
	requested := time.Now()
	var info *jetstream.ConsumerInfo
	w.consumer, info, err = w.createConsumer(ctx, w.consumerConfig())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		w.admitted.release()
		return w.noBucket(requested)
	}
	if err == nil && info.NumPending >= largeListing {
		var admitted bool
		admitted, err = w.admitted.admit(ctx, w.store.life, time.After(admissionPatience))
		w.crowded = err == nil && !admitted
	}
	if err == nil && !w.crowded {
		err = w.subscribe()
	}
	if err != nil || w.crowded {
		w.expecting = false // the bucket may exist: the next attempt waits for no other advisory
		w.admitted.release()
		w.store.deleteConsumer(w.consumer)
		return err
	}
	w.unsubscribeCreated()
	w.last, w.lastStream, w.pending, w.provesSince = 0, 0, info.NumPending, time.Time{}
	// The entries of a bucket that was created meanwhile are changes. A listing would
	// mark a fault, after which removals are held.
	w.listing = !w.absent || w.found
	if w.listing {
		w.queued = append(w.queued, discovery.Change{Op: discovery.OpReset})
		w.finishListing(w.pending == 0)
	}
	w.begun, w.found, w.absent, w.expecting = true, true, false, false
	return w.pull()
}

// createConsumer ends with ctx, but the request does not: the server may execute a
// deletion before a creation that was requested earlier, so that a consumer can
// only be deleted after the answer.
func (w *watcher) createConsumer(ctx context.Context, config jetstream.ConsumerConfig) (name string, info *jetstream.ConsumerInfo, err error) {
	s := w.store
	_, end, err := s.begin(ctx)
	if err != nil {
		return config.Name, nil, err
	}
	type outcome struct {
		name string
		info *jetstream.ConsumerInfo
		err  error
	}
	created := make(chan outcome)
	name, reconnects := config.Name, w.reconnects
	go func() {
		defer end()
		lingering, cancel := s.linger(ctx)
		defer cancel()
		info, err := s.requestConsumer(lingering, &config, reconnects)
		select {
		case created <- outcome{config.Name, info, err}:
		case <-ctx.Done():
			s.deleteConsumer(config.Name)
		}
	}()
	select {
	case c := <-created:
		return c.name, c.info, c.err
	case <-ctx.Done():
		return name, nil, stopped(ctx, nil)
	}
}

func (w *watcher) consumerConfig() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Name:              newConsumerName(),
		DeliverPolicy:     jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy:         jetstream.AckNonePolicy,
		FilterSubject:     w.store.opt.readSubject(keyFilter(w.query)),
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: consumerThreshold,
	}
}

func newConsumerName() string { return "dynplane-" + crand.Text() }

// requestConsumer waits for the server for as long as the connection lasts. In a
// cluster, a request without an answer is repeated under another name: the consumer
// may have been placed on a server that was just lost, which alone could answer.
func (s *Store) requestConsumer(ctx context.Context, config *jetstream.ConsumerConfig, reconnects uint64) (info *jetstream.ConsumerInfo, err error) {
	responders := responders{store: s}
	overdue := false
	err = s.retry(ctx, func(ctx context.Context) error {
		if overdue && s.isClustered() {
			s.deleteConsumer(config.Name)
			config.Name = newConsumerName()
		}
		if reconnects != s.nc.Stats().Reconnects || !s.nc.IsConnected() {
			return errConnectionLost
		}
		requesting(ctx, s.opt.apiSubject("CONSUMER.CREATE", s.opt.readStream())+"."+config.Name)
		consumer, err := s.js.CreateConsumer(ctx, s.opt.readStream(), *config)
		if err == nil {
			info = consumer.CachedInfo()
		}
		overdue = errors.Is(err, context.DeadlineExceeded)
		return responders.check(err)
	})
	return info, err
}

// errConnectionLost ends a request whose answer may have gone to a former
// connection.
var errConnectionLost = errors.New("the connection was lost")

// awaitConnection blocks until there is a connection. The first listing fails if
// there is none for long.
func (w *watcher) awaitConnection(ctx context.Context) error {
	for !w.store.nc.IsConnected() {
		if w.store.nc.IsClosed() {
			return nats.ErrConnectionClosed
		}
		if !w.begun && time.Since(w.since) > connectTimeout {
			return nats.ErrDisconnected
		}
		if err := w.sleep(ctx, reconnectPoll); err != nil {
			return err
		}
	}
	return nil
}

// noBucket treats a missing bucket as an empty one.
func (w *watcher) noBucket(requested time.Time) error {
	w.begun = true
	if w.absent {
		w.queued = append(w.queued, discovery.Change{Op: discovery.OpProgress, AliveSince: requested})
		return nil
	}
	w.absent, w.lost = true, time.Now()
	w.queued = append(w.queued, discovery.Change{Op: discovery.OpReset}, discovery.Change{Op: discovery.OpSynced})
	return w.subscribeCreated()
}

// awaitCreation waits, if there was no bucket, until it may have been created. It
// does not wait the first time, in case that it was before the subscription.
func (w *watcher) awaitCreation(ctx context.Context) error {
	if !w.absent {
		return nil
	}
	if !w.expecting {
		w.expecting = true
		return nil
	}
	due := time.Now().Add(w.absentPause())
	ticker := time.NewTicker(closedPoll)
	defer ticker.Stop()
	for {
		select {
		case <-w.msgs: // the bucket was created
			return nil
		case <-w.prompts:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-w.store.life.Done():
			return discovery.ErrClosed
		case now := <-ticker.C:
			if w.store.nc.IsClosed() {
				return nats.ErrConnectionClosed
			}
			if now.After(due) {
				return nil
			}
		}
	}
}

// absentPause is the time until the next look for a bucket that does not exist. If
// there has been one, removals may be held, which wait for a look after their hold.
func (w *watcher) absentPause() time.Duration {
	pause := absentPoll
	if w.found {
		pause = min(max(time.Since(w.lost)/8, leastAbsentPoll), absentPoll)
	}
	return pause/2 + rand.N(pause)
}

// subscribeCreated subscribes to the advisory of the server that the stream of the
// bucket was created.
func (w *watcher) subscribeCreated() (err error) {
	w.msgs = make(chan *nats.Msg, 16)
	subject := advisories + "STREAM.CREATED." + w.store.opt.readStream()
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
	w.inbox = w.store.nc.NewInbox()
	// The pulls bound what can be pending: one batch, and the answers to pulls.
	w.msgs = make(chan *nats.Msg, 2*pullBatch)
	w.sub, err = w.store.nc.ChanSubscribe(w.inbox+".*", w.msgs)
	return err
}

// dropConsumer deletes the consumer; the next step lists again.
func (w *watcher) dropConsumer(why error) {
	w.admitted.release()
	if w.sub == nil {
		return
	}
	if why != nil {
		w.store.log.Debug("natskv: watch failed, listing again with a new consumer", "filter", keyFilter(w.query), "error", why)
	}
	// An error means that the connection is closed.
	_ = w.sub.Unsubscribe()
	w.sub = nil
	w.store.deleteConsumer(w.consumer)
}

// deleteConsumer does not wait for the answer. If the server is unreachable, the
// consumer ends by itself.
func (s *Store) deleteConsumer(name string) {
	_ = s.nc.Publish(s.opt.apiSubject("CONSUMER.DELETE", s.opt.readStream())+"."+name, nil)
}
