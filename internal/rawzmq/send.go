//go:build cgo && !nozmq

package rawzmq

/*
#cgo noescape send_message
#cgo nocallback send_message
#cgo noescape send_frame
#cgo nocallback send_frame
#cgo noescape send_routed
#cgo nocallback send_routed
#include <string.h>
#include "queue.h"

static int send_frame(void *socket, const unsigned char *data, size_t size, int flags) {
	int rc;
	do
		rc = zmq_send(socket, data, size, flags | ZMQ_DONTWAIT);
	while (rc < 0 && zmq_errno() == EINTR);
	return rc;
}

// send_joined sends head and tail as one frame, which q counts if it is large.
static int send_joined(void *socket, struct queue *q, const unsigned char *head, size_t head_size,
		const unsigned char *tail, size_t tail_size, int flags) {
	int rc;
	zmq_msg_t frame;
	size_t size = head_size + tail_size;
	if ((size < LARGE_FRAME ? zmq_msg_init_size(&frame, size) : init_counted(&frame, q, size)) < 0)
		return -1;
	unsigned char *data = zmq_msg_data(&frame);
	if (head_size > 0)
		memcpy(data, head, head_size);
	if (tail_size > 0)
		memcpy(data + head_size, tail, tail_size);
	do
		rc = zmq_msg_send(&frame, socket, flags | ZMQ_DONTWAIT);
	while (rc < 0 && zmq_errno() == EINTR);
	if (rc < 0) {
		int error = zmq_errno();
		zmq_msg_close(&frame);
		errno = error;
	}
	return rc;
}

// send_message sends four frames, the last of which is the fourth argument and
// the tail. The type of socket is one that cgo need not check.
static int send_message(unsigned char *socket, struct queue *q, const unsigned char *a, size_t a_size, const unsigned char *b, size_t b_size,
		const unsigned char *c, size_t c_size, const unsigned char *d, size_t d_size,
		const unsigned char *tail, size_t tail_size) {
	if (send_frame(socket, a, a_size, ZMQ_SNDMORE) < 0)
		return -1;
	if (send_frame(socket, b, b_size, ZMQ_SNDMORE) >= 0 &&
			send_frame(socket, c, c_size, ZMQ_SNDMORE) >= 0 &&
			send_joined(socket, q, d, d_size, tail, tail_size, 0) >= 0)
		return 0;
	// An empty frame ends the message: else the next message would continue it.
	int error = zmq_errno();
	send_frame(socket, NULL, 0, 0);
	errno = error;
	return -1;
}

// send_routed sends messages to one peer of a ROUTER, and returns how many: fewer
// than count if it failed.
static size_t send_routed(void *socket, struct queue *q, const unsigned char *peer, size_t peer_size, const unsigned char *data,
		const uint32_t *sizes, size_t frames, size_t count) {
	for (size_t sent = 0; sent < count; sent++) {
		if (send_frame(socket, peer, peer_size, ZMQ_SNDMORE) < 0)
			return sent;
		for (size_t i = 0; i < frames; i++) {
			if (send_joined(socket, q, data, sizes[i], NULL, 0, i + 1 < frames ? ZMQ_SNDMORE : 0) < 0)
				return sent;
			data += sizes[i];
		}
		sizes += frames;
	}
	return count;
}
*/
import "C"

import "unsafe"

// Send sends a message of MaxFrames frames without waiting. The last frame is
// that of frames, followed by tail. All of them are copied. Queued counts it.
func (s *Socket) Send(frames *[MaxFrames][]byte, tail []byte) error {
	a, aSize := pointer(frames[0])
	b, bSize := pointer(frames[1])
	c, cSize := pointer(frames[2])
	d, dSize := pointer(frames[3])
	t, tSize := pointer(tail)
	if rc, err := C.send_message((*C.uchar)(s.ptr), s.queue.ptr, a, aSize, b, bSize, c, cSize, d, dSize, t, tSize); rc < 0 {
		return failure(err)
	}
	return nil
}

// Batch holds messages that have the same number of frames.
type Batch struct {
	frames int
	data   []byte // of all frames
	sizes  []uint32
}

// Reset removes the messages. The next ones have that many frames.
func (b *Batch) Reset(frames int) { b.frames, b.data, b.sizes = frames, b.data[:0], b.sizes[:0] }

// Append appends a frame, which consists of the given parts.
func (b *Batch) Append(parts ...[]byte) {
	n := len(b.data)
	for _, part := range parts {
		b.data = append(b.data, part...)
	}
	b.sizes = append(b.sizes, uint32(len(b.data)-n))
}

// Size returns the number of bytes of all frames.
func (b *Batch) Size() int { return len(b.data) }

// SendRouted sends messages of a ROUTER to one peer without waiting, and counts them
// in q. It returns how many it has sent, and why it has not sent the others: EAGAIN
// if the peer has no room, EHOSTUNREACH if it is not connected.
func (s *Socket) SendRouted(peer []byte, b *Batch, q Queue) (sent int, err error) {
	count := len(b.sizes) / b.frames
	p, pSize := pointer(peer)
	data, _ := pointer(b.data)
	n, err := C.send_routed(s.ptr, q.ptr, p, pSize, data, (*C.uint32_t)(unsafe.SliceData(b.sizes)), C.size_t(b.frames), C.size_t(count))
	if int(n) == count {
		return count, nil
	}
	return int(n), failure(err)
}

// SendFrame sends a message of one frame, or one more frame of a message,
// without waiting.
func (s *Socket) SendFrame(frame []byte, more bool) error {
	flags := C.int(0)
	if more {
		flags = C.ZMQ_SNDMORE
	}
	data, size := pointer(frame)
	if rc, err := C.send_frame(s.ptr, data, size, flags); rc < 0 {
		return failure(err)
	}
	return nil
}

// pointer returns b as C sees it. A typed pointer to bytes holds no pointers,
// so that cgo checks nothing at run time.
func pointer(b []byte) (*C.uchar, C.size_t) {
	return (*C.uchar)(unsafe.SliceData(b)), C.size_t(len(b))
}
