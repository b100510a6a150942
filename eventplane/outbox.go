package eventplane

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/eventplane/driver"
)

const (
	// A batch of the sender has at most batchEvents and batchBytes.
	batchEvents = 64
	batchBytes  = 256 << 10

	// stallTime is how long Publish waits for a sender that makes no progress, once
	// there is no room for another event.
	stallTime = time.Second

	// drainStall is how long Shutdown waits for a sender that makes no progress.
	drainStall = 5 * time.Second

	// envelopeSize is about the size of an envelope without payload and topic.
	envelopeSize = 160
)

// outbox numbers and encodes the events of a publisher, keeps them, and sends them in
// order. It implements driver.History.
//
// Where sending never blocks, publish sends. Otherwise a goroutine does, the sender,
// so that publish does not depend on the state of a connection.
type outbox struct {
	conn    *pubConn
	id      uint64
	replays bool // events are kept after they have been sent
	log     *slog.Logger

	wake   chan struct{}      // wakes the sender
	done   chan struct{}      // closed when the sender has ended; nil without one
	cancel context.CancelFunc // ends the sender
	err    error              // of closing conn, once done is closed

	mu       sync.Mutex
	closed   bool
	history  eventHistory
	lastAt   uint64 // time of publishing of the last event, or of the start
	ticker   ticker
	idle     bool           // the sender waits for wake
	message  driver.Message // reused
	progress time.Time      // when the sender last sent something, or began to have something to send
	room     chan struct{}  // closed when the sender has taken events; nil unless publish waits
	failure  error          // of an event, which the next publish returns
	warned   bool           // losses have been logged since the sender last had nothing to send
	inflight int            // events that the sender has taken and not sent
	sent     uint64
	failed   uint64
	refused  uint64
	replayed uint64
}

func newOutbox(id uint64, conn *pubConn, budget *historyBudget, c Config, o PublisherOptions) *outbox {
	b := &outbox{
		conn: conn, id: id, log: c.Logger, progress: time.Now(), lastAt: uint64(time.Now().UnixMilli()),
		replays: o.History >= 0 && o.HistoryBytes >= 0 && c.HistoryBytes >= 0,
		history: eventHistory{maxEvents: o.History, maxBytes: o.HistoryBytes, budget: budget},
	}
	if b.history.maxEvents <= 0 {
		b.history.maxEvents = DefaultHistory
	}
	if b.history.maxBytes <= 0 {
		b.history.maxBytes = DefaultHistoryBytes
	}
	budget.publishers.Add(1)
	if conn.blocks {
		var ctx context.Context
		ctx, b.cancel = context.WithCancel(context.Background())
		b.wake, b.done = make(chan struct{}, 1), make(chan struct{})
		go b.run(ctx)
	}
	return b
}

// serveReplay lets the driver serve the history, if it can, and advertises where.
func (b *outbox) serveReplay() error {
	server, ok := b.conn.Publisher.(driver.ReplayServer)
	if !ok || !b.replays {
		return nil
	}
	address, err := server.ServeReplay(b.id, b)
	if err != nil {
		return fmt.Errorf("serve replays: %w", err)
	}
	return b.conn.advertiseReplay(address)
}

// Slice implements driver.History. It returns only events that have been passed to
// the sender.
func (b *outbox) Slice(dst []driver.Message, first, last uint64, limit, maxBytes int) []driver.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.history.cursor == 0 {
		return dst
	}
	n := len(dst)
	dst = b.history.slice(dst, first, min(last, b.history.cursor-1), limit, maxBytes)
	for i := n; i < len(dst); i++ {
		dst[i].Subject, dst[i].PublisherID = b.conn.subject, b.id
	}
	b.replayed += uint64(len(dst) - n)
	return dst
}

// publish encodes and sends an event, whose sequence and time it sets. It holds the
// lock meanwhile, so that the order of sequences is the order on the wire.
func (b *outbox) publish(ctx context.Context, e *codec.Envelope, c codec.Codec) error {
	size := envelopeSize + len(e.Topic) + len(e.Payload)
	if e.Bytes {
		size += len(e.Payload) / 2 // base64
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn.blocks {
		b.waitForRoom(ctx, size)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.closed {
		return ErrClosed
	}
	if err := b.takeFailure(); err != nil {
		return err
	}
	e.Sequence = b.history.next
	e.PublishedAt = uint64(time.Now().UnixMilli())
	body, err := e.Append(b.history.reserve(size), c)
	if err != nil {
		return err
	}
	if err := b.conn.Check(len(body)); err != nil {
		b.refused++
		return err
	}
	b.history.add(body)
	b.lastAt = e.PublishedAt
	b.startTicks()
	if b.conn.blocks {
		b.wakeSender()
		b.evict()
		return nil
	}
	return b.sendNow(ctx, body)
}

// waitForRoom waits while an event of about size bytes would replace one that has not
// been sent, as long as the sender makes progress and ctx is not done. The caller holds
// mu, which is released meanwhile.
func (b *outbox) waitForRoom(ctx context.Context, size int) {
	for b.history.full(size) && !b.closed && ctx.Err() == nil {
		patience := time.Until(b.progress.Add(stallTime))
		if patience <= 0 {
			return
		}
		if b.room == nil {
			b.room = make(chan struct{})
		}
		room, timer := b.room, time.NewTimer(patience)
		b.mu.Unlock()
		select {
		case <-room:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		b.mu.Lock()
	}
}

// takeFailure returns the error of an earlier event, once.
func (b *outbox) takeFailure() error {
	err := b.failure
	if err != nil {
		b.failure = nil
		b.refused++
	}
	return err
}

// evict removes events that the history has no room for, and logs the first loss.
func (b *outbox) evict() {
	before := b.history.lost
	b.history.evict()
	if b.history.lost > before && !b.warned {
		b.warned = true
		b.log.Warn("eventplane: dropping the oldest events, since they cannot be sent", "subject", b.conn.subject, "publisher", b.id)
	}
}

// sendNow sends the last event, where sending does not block.
func (b *outbox) sendNow(ctx context.Context, body []byte) error {
	b.message = driver.Message{
		Subject: b.conn.subject, PublisherID: b.id, Sequence: b.history.next - 1, PublishedAt: b.lastAt, Body: body,
	}
	err := b.conn.Publish(ctx, &b.message)
	b.message.Body = nil // it may be large
	if err != nil {
		b.failed++
	} else {
		b.sent++
	}
	b.history.markSent()
	if b.replays {
		b.history.evict()
	} else {
		b.history.removeSent()
	}
	return err
}

// PublisherStats are the counters of a [Publisher]. Published is the sum of Sent,
// Pending, Lost and Failed.
type PublisherStats struct {
	Published uint64 // events that have a sequence
	Sent      uint64 // events passed to the transport
	Pending   uint64 // events that wait to be sent
	Lost      uint64 // events dropped before they could be sent
	Failed    uint64 // events that the transport did not accept
	Refused   uint64 // calls of Publish that failed before the event had a sequence
	Dropped   uint64 // of those sent, events that ZMQ dropped while subscribers did not read

	Kept      uint64 // events in the history
	KeptBytes uint64 // their size
	Replayed  uint64 // events read from the history for subscribers that missed them
}

func (b *outbox) stats() PublisherStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := &b.history
	var dropped uint64
	if d, ok := b.conn.Publisher.(driver.DropCounter); ok {
		dropped = d.Dropped()
	}
	return PublisherStats{
		Published: h.next, Sent: b.sent, Pending: h.next - h.cursor + uint64(b.inflight), Lost: h.lost,
		Failed: b.failed, Refused: b.refused, Dropped: dropped,
		Kept: h.next - h.first, KeptBytes: uint64(h.bytes), Replayed: b.replayed,
	}
}
