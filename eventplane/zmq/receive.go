//go:build cgo && !nozmq

package zmq

import "github.com/dynplane/dynplane/eventplane/driver"

// receive moves a batch of messages from the socket into the queue, without
// waiting, and tells whether there may be more. It is called by the owner of
// the socket, and by nobody else.
//
// It must never be slower than the thread of libzmq that fills the socket,
// whose high-water mark counts messages and not bytes: a peer that floods us
// with large frames would grow the process without bound. So everything is
// decided where libzmq has the frames, and only what is kept is copied.
func (s *Subscriber) receive() (more bool) { return s.receiver.each(s.take) }

// take copies the message into the queue. One whose topic only begins with
// the subject is not ours: that is how ZMQ subscribes.
func (s *Subscriber) take(f *frames) {
	if string(f.part[0]) != s.subject {
		return
	}
	it, reason := f.decode()
	if !s.queue.admit(len(it.body)) {
		return
	}
	if reason != "" {
		it.malformed = &driver.FrameError{Subject: s.subject, Reason: reason}
	}
	it.body = owned(it.body)
	s.queue.push(it)
}

// owned copies body into memory of exactly its size. In this form make does
// not clear what copy overwrites.
func owned(body []byte) []byte {
	b := make([]byte, len(body))
	copy(b, body)
	return b
}
