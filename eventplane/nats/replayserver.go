package nats

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// A request for events is published on replayPrefix and the id of the publisher, in
// decimal. Its body is the first and the last sequence, 8 bytes each, big-endian. An
// answer is some messages to the reply subject, each of some records.
const (
	replayPrefix = "dynplane.replay."
	requestSize  = 16

	// A record is an event: publisher id and sequence, 8 bytes each, version 1, the
	// length of the body in 4 bytes, all big-endian, and the body. The last record of
	// an answer has the sequence driver.NoSequence, and a body of 8 bytes each: first
	// and last sequence of the request, and the number of events in the answer.
	recordHeader  = 8 + 8 + 1 + 4
	recordVersion = 1
	endSize       = 24

	// maxAnswers is the number of requests that are answered at once. As many as
	// maxPendingControl wait.
	maxAnswers = 64

	// maxAnswerMessage bounds a message of an answer, which delays events.
	maxAnswerMessage = 64 << 10
)

func replaySubject(publisherID uint64) string {
	return replayPrefix + strconv.FormatUint(publisherID, 10)
}

// replayServer answers requests for the events of one publisher, in a goroutine of
// its own.
type replayServer struct {
	nc          *nats.Conn
	log         *slog.Logger
	publisherID uint64
	history     driver.History
	requests    *nats.Subscription
	stop        context.CancelFunc
	done        sync.WaitGroup

	// Of the goroutine.
	answers []*answer
	events  []driver.Message // reused
	message []byte           // reused
	refused int              // malformed requests
}

// answer is an answer that has not been sent completely.
type answer struct {
	driver.ReplayAnswer
	to      string
	skipped uint64 // events that are too large
}

// ServeReplay implements [driver.ReplayServer]. The address is empty: requests are
// routed by the id.
func (p *Publisher) ServeReplay(publisherID uint64, h driver.History) (address string, err error) {
	r := &replayServer{nc: p.nc, log: p.log, publisherID: publisherID, history: h}
	if r.requests, err = p.nc.SubscribeSync(replaySubject(publisherID)); err != nil {
		return "", fmt.Errorf("nats: serve replay: %w", err)
	}
	if err := r.requests.SetPendingLimits(maxPendingControl, maxPendingBytes); err != nil {
		return "", errors.Join(fmt.Errorf("nats: serve replay: %w", err), r.requests.Unsubscribe())
	}
	if p.nc.IsConnected() {
		// Subscribers that find the publisher may send requests at once. Without the
		// subscription, these would fail as those of a publisher that serves none.
		_ = p.nc.FlushTimeout(readyFlushTimeout)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	p.replay = r
	r.done.Go(func() { r.run(ctx) })
	return "", nil
}

// close ends the goroutine.
func (r *replayServer) close() error {
	r.stop()
	err := r.requests.Unsubscribe()
	r.done.Wait()
	if ended(err) {
		return nil
	}
	return err
}

// run sends a batch of each answer in turn, and reads requests in between.
func (r *replayServer) run(ctx context.Context) {
	for ctx.Err() == nil {
		if !r.receive() {
			return
		}
		for i := 0; i < len(r.answers); {
			if r.send(r.answers[i]) {
				i++
			} else {
				r.answers = append(r.answers[:i], r.answers[i+1:]...)
			}
		}
	}
}

// receive reads requests. It blocks if there is nothing to send, and returns false
// once there will be no more requests.
func (r *replayServer) receive() (open bool) {
	for len(r.answers) < maxAnswers {
		if len(r.answers) > 0 {
			if pending, _, err := r.requests.Pending(); err != nil || pending == 0 {
				return err == nil
			}
		}
		msg, err := r.requests.NextMsg(nextTimeout)
		switch {
		case err == nil:
			r.accept(msg)
		case errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrSlowConsumer), errors.Is(err, nats.ErrNoResponders):
		case errors.Is(err, nats.ErrPermissionViolation):
			r.log.Warn("nats: requests for replay are not permitted, lost events cannot be recovered", "publisher_id", r.publisherID, "error", err)
			return false
		default:
			return false
		}
	}
	return true
}

// accept begins the answer to a request.
func (r *replayServer) accept(msg *nats.Msg) {
	if len(msg.Data) == requestSize && msg.Reply != "" {
		first, last := binary.BigEndian.Uint64(msg.Data), binary.BigEndian.Uint64(msg.Data[8:])
		if first <= last {
			r.answers = append(r.answers, &answer{ReplayAnswer: driver.NewReplayAnswer(first, last, driver.MaxReplay), to: msg.Reply})
			return
		}
	}
	if r.refused++; r.refused == 1 {
		r.log.Warn("nats: request for replay is malformed, ignoring it and others",
			"publisher_id", r.publisherID, "bytes", len(msg.Data), "want", "first and last sequence in 8 bytes each, and a reply subject")
	}
}

// send sends the next batch of an answer and reports whether there is more. An
// answer that cannot be sent is given up: the subscriber requests it again.
func (r *replayServer) send(a *answer) (more bool) {
	r.events = a.Batch(r.history, r.events[:0], math.MaxInt)
	defer clear(r.events) // they may be large
	most := math.MaxInt   // bytes of a message
	if n := r.nc.MaxPayload(); n > 0 {
		most = int(n)
	}
	for i := range r.events {
		m := &r.events[i]
		size := recordHeader + len(m.Body)
		if size > most {
			a.skipped++ // only if another server accepted it
			continue
		}
		if len(r.message)+size > min(most, maxAnswerMessage) && !r.flush(a.to) {
			return false
		}
		r.message = appendRecord(r.message, r.publisherID, m.Sequence, m.Body)
	}
	a.Advance(r.events)
	if len(r.events) > 0 {
		return r.flush(a.to)
	}
	end := binary.BigEndian.AppendUint64(make([]byte, 0, endSize), a.First)
	end = binary.BigEndian.AppendUint64(end, a.Last)
	end = binary.BigEndian.AppendUint64(end, a.Sent-a.skipped)
	r.message = appendRecord(r.message, r.publisherID, driver.NoSequence, end)
	r.flush(a.to)
	return false
}

// flush publishes the records that have been collected, if there are any.
func (r *replayServer) flush(to string) (ok bool) {
	if len(r.message) == 0 {
		return true
	}
	err := r.nc.Publish(to, r.message)
	if err != nil {
		r.log.Debug("nats: replay failed", "publisher_id", r.publisherID, "error", err)
	}
	r.message = r.message[:0]
	if cap(r.message) > 2*maxAnswerMessage {
		r.message = nil
	}
	return err == nil
}

func appendRecord(dst []byte, publisherID, sequence uint64, body []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, publisherID)
	dst = binary.BigEndian.AppendUint64(dst, sequence)
	dst = binary.BigEndian.AppendUint32(append(dst, recordVersion), uint32(len(body)))
	return append(dst, body...)
}
