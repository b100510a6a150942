package eventplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// While messages wait for Next, one replayed event is processed for replayCost of
// them, so that recovering takes no more than a tenth of what the reader can read.
const (
	replayCost = 9
	maxCredit  = 64 * replayCost
)

// dueMark is a time at which held events were due while messages waited for Next.
// Among these may be those that fill the gaps, so they are processed first.
type dueMark struct {
	at    time.Duration // on the sequencer's clock; 0 if there is no mark
	taken uint64        // value of Subscriber.taken once they are processed
}

// Next blocks until an event arrives, and returns it, or a gap if these are
// requested; see [SubscriberOptions]. It must be called by one
// goroutine at a time.
//
// A [*DecodeError] reports a message that is not a valid event; the stream
// continues. It also continues after an error of ctx, by which no event is lost.
// Any other error is final. After Shutdown it wraps [ErrClosed].
func (s *Subscriber) Next(ctx context.Context) (Event, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Event{}, err
		}
		ev, ok, wait := s.ready()
		if ok {
			if ev.Gap == nil {
				s.client.compareCodec(ev.Envelope)
			}
			return ev, nil
		}
		if err := s.receive(ctx, wait); err != nil {
			return Event{}, err
		}
	}
}

// ready returns an event that can be delivered now, if there is one, and the
// time until an event that is held is due; 0 means that there is none.
func (s *Subscriber) ready() (ev Event, ok bool, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sequencer.recoverer.waiting != nil {
		s.sequencer.resume()
	}
	for {
		if ev, ok = s.sequencer.next(); ok {
			if ev.Gap == nil {
				s.received++
			}
			return ev, true, 0
		}
		if s.sequencer.held.oldest != nil {
			wait = s.releaseDue()
		}
		if s.sequencer.outAt == len(s.sequencer.out) && !s.takeReplayed() {
			return ev, false, wait
		}
	}
}

// releaseDue releases the events that are due, once all messages that waited for
// Next at that time are processed. It returns the time until further ones are.
func (s *Subscriber) releaseDue() time.Duration {
	seq, now := s.sequencer, time.Since(s.opened)
	if s.due.at == 0 && seq.held.oldest.deadline <= now {
		s.due = dueMark{now, s.taken + uint64(s.conn.Queued())}
	}
	if s.due.at != 0 && (s.taken >= s.due.taken || s.conn.Queued() == 0) {
		seq.advance(s.due.at)
		s.due = dueMark{}
	}
	if s.due.at != 0 || seq.held.oldest == nil {
		return 0
	}
	return max(seq.held.oldest.deadline-now, 1)
}

// takeReplayed processes a replayed event, or the end of a slice, if there is one
// and it does not delay the messages that wait for Next.
func (s *Subscriber) takeReplayed() bool {
	if s.replays == nil || s.credit < replayCost && s.conn.Queued() > 0 {
		return false
	}
	r, ok, err := s.replays.results.TryPop()
	if !ok || err != nil {
		return false
	}
	s.sequencer.clock = time.Since(s.opened)
	if r.end {
		s.sequencer.finish(r.slice, r.failed)
		return true
	}
	s.credit = max(s.credit-replayCost, 0)
	s.sequencer.replayed(r.slice, r.event, r.size)
	return true
}

// receive waits for one message, for the given time if it is not 0, and passes it
// to the sequencer. It returns early if wakeUp is called.
func (s *Subscriber) receive(ctx context.Context, wait time.Duration) error {
	waiting := ctx
	if (wait > 0 || s.replays != nil) && s.conn.Queued() == 0 {
		var cancel context.CancelFunc
		if wait > 0 {
			waiting, cancel = context.WithTimeout(ctx, wait)
		} else {
			waiting, cancel = context.WithCancel(ctx)
		}
		defer cancel()
		s.await(cancel)
	}
	err := s.conn.Next(waiting, &s.msg)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake = nil
	s.sequencer.clock = time.Since(s.opened)
	_, malformed := errors.AsType[*driver.FrameError](err)
	if err == nil || malformed {
		s.taken++
		s.credit = min(s.credit+1, maxCredit)
	}
	switch {
	case err == nil && s.msg.Kind != driver.Event:
		if s.onlyListed && !s.conn.departures.lists(s.msg.PublisherID) {
			return nil
		}
		if s.msg.Kind == driver.Dropped {
			s.sequencer.dropped(s.msg.PublisherID, s.msg.Sequence)
			return nil
		}
		s.sequencer.control(s.msg.PublisherID, s.msg.Sequence, s.msg.PublishedAt)
		return nil
	case err == nil:
		return s.accept()
	case malformed:
		s.bad++
		return &DecodeError{Subject: s.conn.subject, Err: err}
	case ctx.Err() == nil && waiting.Err() != nil:
		return nil
	case ctx.Err() == nil && !s.ended:
		// The events that are held are delivered first; the driver returns the
		// error again on the next call.
		s.ended = true
		s.sequencer.flush()
		return nil
	}
	return s.wrap(ctx, err)
}

// await makes wakeUp call cancel. It is called when all messages have been read.
func (s *Subscriber) await(cancel context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sequencer.recoverer.drained++
	s.wake = cancel
	if s.replays != nil && s.replays.results.Len() > 0 {
		cancel()
	}
}

// wakeUp makes Next process what was replayed.
func (s *Subscriber) wakeUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wake != nil {
		s.wake()
	}
}

// accept decodes the message and passes the event to the sequencer.
func (s *Subscriber) accept() error {
	ev := &s.env
	ev.Topic = s.topic // Decode allocates only for another topic
	err := ev.Decode(s.msg.Body)
	reason := ""
	switch {
	case err != nil:
	case ev.Topic != s.topic:
		reason = fmt.Sprintf("topic %.64q in the envelope: want %q", ev.Topic, s.topic)
	case s.msg.HasIdentity && (s.msg.PublisherID != ev.PublisherID || s.msg.Sequence != ev.Sequence):
		reason = fmt.Sprintf("publisher %d, sequence %d in the frames, but %d, %d in the envelope: want the same",
			s.msg.PublisherID, s.msg.Sequence, ev.PublisherID, ev.Sequence)
	case s.onlyListed && !s.conn.departures.lists(ev.PublisherID):
		s.unlisted++
		return nil
	default:
		s.sequencer.add(Event{Envelope: *ev}, len(s.msg.Body))
		return nil
	}
	s.bad++
	return &DecodeError{Subject: s.conn.subject, Reason: reason, Err: err}
}
