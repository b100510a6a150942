package eventplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// A publisher sends a tick tickRest after its last event, and further ones at
// intervals that double up to tickMax.
const (
	tickRest = 50 * time.Millisecond
	tickMax  = 5 * time.Second
)

// ticker has the state of the ticks of an outbox, under its lock. The timer of a
// publisher that never rests fires every tickRest, without being reset by events.
type ticker struct {
	timer    *time.Timer   // nil before the first event
	interval time.Duration // until the timer fires
	next     uint64        // sequence of the next event when it fired
	due      bool          // the sender has a tick to send
}

// startTicks is called after each event.
func (b *outbox) startTicks() {
	t := &b.ticker
	switch {
	case t.timer == nil:
		t.timer = time.AfterFunc(tickRest, b.onTimer)
	case t.interval == tickRest:
		return
	default:
		t.timer.Reset(tickRest)
	}
	t.interval = tickRest
}

// onTimer sends a tick, unless an event was published since the last call.
func (b *outbox) onTimer() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	t := &b.ticker
	if t.next == b.history.next {
		b.tick()
		t.interval = min(2*t.interval, tickMax)
	}
	t.next = b.history.next
	t.timer.Reset(t.interval)
	b.evict() // the share of this publisher may have become smaller
}

// tick sends a tick, or lets the sender do so. The caller holds mu.
func (b *outbox) tick() {
	b.ticker.due = true
	if b.conn.blocks {
		b.wakeSender()
		return
	}
	b.ticker.due = false
	m := b.tickMessage()
	_ = b.conn.Publish(context.Background(), &m) // the next tick follows
}

func (b *outbox) tickMessage() driver.Message {
	return driver.Message{
		Kind: driver.Tick, Subject: b.conn.subject, PublisherID: b.id, Sequence: b.history.next, PublishedAt: b.lastAt,
	}
}

// wakeSender wakes the sender if it waits. The caller holds mu.
func (b *outbox) wakeSender() {
	if !b.idle {
		return
	}
	b.idle = false
	b.progress = time.Now()
	b.wake <- struct{}{} // has room: the sender was idle
}

// run is the sender. It closes conn when it ends: after finish, once everything has
// been sent, or when ctx is done.
func (b *outbox) run(ctx context.Context) {
	defer close(b.done)
	var batch []driver.Message
	for ctx.Err() == nil {
		if batch = b.take(batch[:0]); len(batch) == 0 {
			if b.ended() {
				break
			}
			select {
			case <-b.wake:
			case <-ctx.Done():
			}
			continue
		}
		b.send(ctx, batch)
		clear(batch) // a body may be large
	}
	b.discard()
	b.err = b.conn.Close()
}

// take takes what is to be sent next: events, or else a tick. It sets idle if there is
// nothing.
func (b *outbox) take(batch []driver.Message) []driver.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.replays {
		b.history.removeSent()
	}
	batch = b.history.take(batch, batchEvents, batchBytes)
	if len(batch) > 0 {
		b.inflight = len(batch)
		for i := range batch {
			batch[i].Subject, batch[i].PublisherID = b.conn.subject, b.id
		}
		if b.room != nil {
			close(b.room)
			b.room = nil
		}
		return batch
	}
	b.warned = false
	if b.ticker.due {
		b.ticker.due = false
		return append(batch, b.tickMessage())
	}
	b.idle = !b.closed
	return batch
}

func (b *outbox) ended() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// send sends a batch and records the outcome. Events that are not sent because ctx is
// done are lost.
func (b *outbox) send(ctx context.Context, batch []driver.Message) {
	var sent, failed uint64
	var failure error
	for i := range batch {
		err := b.conn.Publish(ctx, &batch[i])
		switch {
		case err == nil:
			sent++
		case ctx.Err() == nil:
			failed++
			failure = err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if sent > 0 {
		b.progress = time.Now()
	}
	if failure != nil && (!b.closed || batch[0].Kind == driver.Event) {
		b.failure = fmt.Errorf("an earlier event could not be sent: %w", failure)
	}
	if batch[0].Kind == driver.Tick {
		return
	}
	b.inflight = 0
	b.sent += sent
	b.failed += failed
	b.history.lost += uint64(len(batch)) - sent - failed
}

// finish refuses further events and sends a last tick.
func (b *outbox) finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	if b.ticker.timer != nil {
		b.ticker.timer.Stop()
		b.tick()
	}
	b.closed = true
	b.wakeSender()
}

// abort closes the outbox of a publisher that has not been registered.
func (b *outbox) abort() error {
	b.finish()
	return b.close(context.Background())
}

// close waits for the sender and closes conn. It must be called after finish.
//
// A sender that is blocked in a write when ctx is done ends later, by itself: nats.go
// offers no way to end the write.
func (b *outbox) close(ctx context.Context) error {
	if b.done == nil {
		err := b.conn.Close()
		b.release()
		return err
	}
	err := b.drain(ctx)
	b.cancel()
	select {
	case <-b.done:
		if err == nil {
			err = errors.Join(b.err, b.lastFailure())
		}
	case <-time.After(tickRest):
	}
	b.release()
	if lost := b.stats().Lost; err != nil && lost > 0 {
		err = fmt.Errorf("%w, and %d events were not sent", err, lost)
	}
	return err
}

// lastFailure returns the error of an event that no publish has returned.
func (b *outbox) lastFailure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failure
}

// drain blocks until the sender has ended. It returns the error of ctx, or another one
// if the sender makes no progress.
func (b *outbox) drain(ctx context.Context) error {
	check := time.NewTicker(drainStall / 10)
	defer check.Stop()
	for start := time.Now(); ; {
		select {
		case <-b.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-check.C:
		}
		b.mu.Lock()
		if b.progress.After(start) {
			start = b.progress
		}
		b.mu.Unlock()
		if time.Since(start) > drainStall {
			return fmt.Errorf("no progress for %v", drainStall)
		}
	}
}

// release ends the share of the publisher in the client's histories.
func (b *outbox) release() {
	b.discard()
	b.history.budget.publishers.Add(-1)
}

// discard removes all events. Those that have not been sent are lost.
func (b *outbox) discard() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.history.clear()
}
