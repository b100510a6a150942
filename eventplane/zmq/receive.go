//go:build cgo && !nozmq

package zmq

import (
	"context"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/rawzmq"
)

// receive moves a batch of messages from the socket into the queue, without
// waiting, and reports whether there may be more. Only the socketLoop calls it.
//
// It must never be slower than the thread of libzmq that fills the socket,
// whose high-water mark counts messages and not bytes: a peer that floods the
// socket with large frames would grow the process without bound. So messages
// are checked where libzmq holds them, and copied only if they are kept.
//
// A queue that blocks may exceed its bounds by one batch. While it is full, messages
// stay in libzmq, and receive returns after a moment, so that the loop can do
// everything else.
func (s *Subscriber) receive() (more bool) {
	if s.blocks && !s.hasRoom() {
		return true
	}
	return s.receiver.Each(s.enqueue)
}

// fullPause bounds the wait for room in the queue.
const fullPause = 5 * time.Millisecond

func (s *Subscriber) hasRoom() bool {
	ctx, cancel := context.WithTimeout(context.Background(), fullPause)
	defer cancel()
	return s.queue.Wait(ctx) == nil
}

// enqueue copies a message into the queue. ZMQ subscriptions are prefixes:
// messages with a longer topic than the subject are skipped.
func (s *Subscriber) enqueue(m *rawzmq.Message) {
	if string(m.Frames[0]) != s.subject {
		return
	}
	it, reason := decode(m)
	if !s.queue.Admit(len(it.body)) {
		return
	}
	if reason != "" {
		it.malformed = &driver.FrameError{Subject: s.subject, Reason: reason}
	}
	it.body = copyOf(it.body)
	s.queue.Push(it, len(it.body))
}

// copyOf returns a copy of exactly the size of body. In this form make does not
// clear the memory that copy overwrites.
func copyOf(body []byte) []byte {
	b := make([]byte, len(body))
	copy(b, body)
	return b
}
