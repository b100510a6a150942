//go:build cgo && !nozmq

package zmq

import (
	"context"
	"strings"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/rawzmq"
)

// receive moves a batch of messages from the socket into the queue, without
// waiting, and reports whether there may be more. The loop calls it.
//
// It must never be slower than the thread of libzmq that fills the socket,
// whose high-water mark counts messages and not bytes: a peer that floods the
// socket with large frames would grow the process without bound. So messages
// are checked where libzmq holds them, and copied only if they are kept.
//
// A queue that blocks may exceed its bounds by one batch. While it is full, messages
// stay in libzmq.
func (s *Subscriber) receive() (more bool) {
	if s.blocks && s.queue.Full() {
		return true
	}
	more = s.loop.receiver.Each(s.enqueue)
	if len(s.proved) > 0 {
		probe := s.probe
		s.loop.readMonitor() // may renew the probe
		if s.probe == probe {
			s.loop.prove(s.proved...)
		}
		s.proved = s.proved[:0]
	}
	return more
}

// fullPause bounds the wait for room in the queue.
const fullPause = 5 * time.Millisecond

// awaitRoom is called before each receive, but without the lock of the loop.
func (s *Subscriber) awaitRoom() {
	ctx, cancel := context.WithTimeout(context.Background(), fullPause)
	defer cancel()
	_ = s.queue.Wait(ctx)
}

// enqueue copies a message into the queue. ZMQ subscriptions are prefixes:
// messages with a longer topic than the subject are skipped.
func (s *Subscriber) enqueue(m *rawzmq.Message) {
	if string(m.Frames[0]) != s.subject {
		s.handleControl(m)
		return
	}
	it, reason := decode(m)
	admitted := s.queue.Admit(len(it.body))
	switch {
	case !admitted && reason != "":
		return
	case !admitted:
		s.queue.Rejected(it)
		return
	case reason != "":
		it.malformed = &driver.FrameError{Subject: s.subject, Reason: reason}
	}
	it.body = copyOf(it.body)
	s.queue.Push(it, len(it.body))
}

// handleControl queues a control message. Malformed ones are skipped. The answer to
// the probe by way of a broker is from the subscriber itself, and has no publisher.
func (s *Subscriber) handleControl(m *rawzmq.Message) {
	topic := m.Frames[0]
	kind := driver.Tick
	switch {
	case string(topic) == s.probe:
		kind = driver.Ready
	case !strings.HasPrefix(string(topic), tickTopic) || string(topic[len(tickTopic):]) != s.subject:
		return
	}
	it, reason := decode(m)
	if reason != "" {
		return
	}
	if kind == driver.Ready {
		s.proved = append(s.proved, m.Source())
	}
	if it.publisherID == noPublisher || len(it.body) > maxControlBody {
		return
	}
	at, err := s.zc.opts.ControlTime(it.body)
	if err != nil {
		return
	}
	it.kind, it.publishedAt, it.body = kind, at, nil
	s.queue.PushControl(it)
}

// copyOf returns a copy of exactly the size of body. In this form make does not
// clear the memory that copy overwrites.
func copyOf(body []byte) []byte {
	b := make([]byte, len(body))
	copy(b, body)
	return b
}
