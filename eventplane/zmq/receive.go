//go:build cgo && !nozmq

package zmq

import (
	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// burst is how many messages are received before anything else is looked at.
const burst = 100

// receive moves a burst of messages from the socket into the queue, without
// waiting, and tells whether there may be more. It is called by the owner of
// the socket, and by nobody else.
func (s *Subscriber) receive() (more bool) {
	for range burst {
		var f frames
		if !readMessage(s.socket, s.subject, &f) {
			return false
		}
		if f.count == 0 {
			continue
		}
		it, reason := f.decode()
		if reason != "" {
			it = item{malformed: &driver.FrameError{Subject: s.subject, Reason: reason}}
		}
		s.queue.push(it)
	}
	return true
}

// readMessage takes one message off the socket and tells whether there was
// one. The count is left at 0 where the topic only begins with subject, which
// is how ZMQ subscribes. Frames come all or none, so that after the first the
// others are there.
func readMessage(socket *zmq.Socket, subject string, f *frames) bool {
	ours, more := true, true
	for more {
		part, err := socket.RecvBytes(zmq.DONTWAIT)
		if err != nil {
			return false
		}
		if more, err = socket.GetRcvmore(); err != nil {
			return false
		}
		if f.count == 0 && string(part) != subject {
			ours = false
		}
		if f.count < frameCount && ours {
			f.part[f.count] = part
		}
		f.count++
	}
	if !ours {
		f.count = 0
	}
	return true
}
