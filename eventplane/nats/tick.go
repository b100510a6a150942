package nats

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/wait"
)

// A tick is published on the subject of the events behind tickPrefix. Its body is
// the publisher id, the sequence and the time of publishing, 8 bytes each, big-endian.
const (
	tickPrefix = "dynplane.tick."
	tickSize   = 24
)

func (p *Publisher) publishTick(m *driver.Message) error {
	if p.ticksRefused {
		return nil
	}
	body := binary.BigEndian.AppendUint64(make([]byte, 0, tickSize), m.PublisherID)
	body = binary.BigEndian.AppendUint64(body, m.Sequence)
	return p.nc.Publish(tickPrefix+m.Subject, binary.BigEndian.AppendUint64(body, m.PublishedAt))
}

// subscribeTicks subscribes to the ticks of the subject. They have a goroutine of
// their own, pumpTicks.
func (s *Subscriber) subscribeTicks() (err error) {
	if s.ticks, err = s.nc.SubscribeSync(tickPrefix + s.subject); err != nil {
		return err
	}
	return s.ticks.SetPendingLimits(maxPendingControl, maxPendingBytes)
}

// pumpTicks moves ticks from nats.go to the queue until Close, or until the
// subscription has ended, which does not affect that of the events.
func (s *Subscriber) pumpTicks() {
	for s.ctx.Err() == nil {
		msg, err := s.ticks.NextMsg(nextTimeout)
		switch {
		case err == nil:
			s.enqueueTick(msg)
		case errors.Is(err, nats.ErrPermissionViolation):
			s.log.Warn("nats: ticks are not permitted, the loss of a publisher's last events may not be detected", "subject", s.subject, "error", err)
			return
		case errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrSlowConsumer), errors.Is(err, nats.ErrNoResponders):
		default:
			return // pump reports why the connection is closed
		}
	}
}

// enqueueTick puts a tick into the queue behind the events that arrived before it.
// The tick is dropped if that cannot be decided or the queue is full, since another
// will follow, or if it is malformed.
func (s *Subscriber) enqueueTick(msg *nats.Msg) {
	if len(msg.Data) != tickSize {
		return
	}
	arrived, ok := s.arrived()
	if !ok {
		return
	}
	for s.pumped.Load() < arrived {
		if s.queue.Full() || wait.Sleep(s.ctx, time.Millisecond) != nil {
			return
		}
	}
	s.queue.PushControl(item{
		kind: driver.Tick, subject: s.subject,
		publisherID: binary.BigEndian.Uint64(msg.Data), sequence: binary.BigEndian.Uint64(msg.Data[8:]),
		publishedAt: binary.BigEndian.Uint64(msg.Data[16:]),
	})
}

// arrived returns how many events nats.go has received. It keeps two counts, which
// add up to that if none of them changed meanwhile.
func (s *Subscriber) arrived() (n int64, ok bool) {
	for range 100 {
		before, err := s.sub.Delivered()
		if err != nil {
			return 0, false
		}
		pending, _, err := s.sub.Pending()
		if err != nil {
			return 0, false
		}
		if after, err := s.sub.Delivered(); err == nil && after == before {
			return before + int64(pending), true
		}
	}
	return 0, false
}
