//go:build cgo && !nozmq

package rawzmq

/*
#cgo nocallback receive_batch
#cgo nocallback close_batch
#include <errno.h>
#include <stdlib.h>
#include <zmq.h>

enum { FRAMES = 4, MESSAGES = 100 };

typedef struct {
	zmq_msg_t frame[FRAMES];
	void *data[FRAMES];
	size_t size[FRAMES];
	size_t count; // frames that arrived; those beyond FRAMES are not kept
} message;

typedef struct {
	message messages[MESSAGES];
	size_t count;
} batch;

static void close_message(message *m) {
	for (size_t i = 0; i < m->count && i < FRAMES; i++)
		zmq_msg_close(&m->frame[i]);
}

// receive_frame is repeated after EINTR: a message must not be split between
// two frames.
static int receive_frame(void *socket, zmq_msg_t *frame) {
	int n;
	do
		n = zmq_msg_recv(frame, socket, ZMQ_DONTWAIT);
	while (n < 0 && zmq_errno() == EINTR);
	return n;
}

// receive_message returns whether there was a message. The frames of a message
// arrive all together, so that only the first can be missing.
static int receive_message(void *socket, message *m) {
	int more = 1;
	for (m->count = 0; more; m->count++) {
		zmq_msg_t beyond, *frame = m->count < FRAMES ? &m->frame[m->count] : &beyond;
		zmq_msg_init(frame);
		if (receive_frame(socket, frame) < 0) {
			zmq_msg_close(frame);
			close_message(m);
			return 0;
		}
		more = zmq_msg_more(frame);
		if (frame == &beyond) {
			zmq_msg_close(frame);
			continue;
		}
		m->data[m->count] = zmq_msg_data(frame);
		m->size[m->count] = zmq_msg_size(frame);
	}
	return 1;
}

// receive_batch fills b without waiting, and returns whether there may be more.
static int receive_batch(void *socket, batch *b) {
	for (b->count = 0; b->count < MESSAGES; b->count++)
		if (!receive_message(socket, &b->messages[b->count]))
			return 0;
	return 1;
}

static void close_batch(batch *b) {
	for (; b->count > 0; b->count--)
		close_message(&b->messages[b->count - 1]);
}

// ZMQ_SRCFD is deprecated, but the only thing that distinguishes the connections of a
// socket apart.
static int source(zmq_msg_t *frame) {
	return zmq_msg_get(frame, ZMQ_SRCFD);
}
*/
import "C"

import (
	"errors"
	"unsafe"
)

// C.FRAMES equals MaxFrames, or this does not compile.
var _ [MaxFrames]struct{} = [C.FRAMES]struct{}{}

// Receiver receives messages from a socket in batches, and shows them where
// libzmq holds them: messages that are not kept are never copied. It is not
// safe for concurrent use. Its memory is C's, which stores C pointers in it.
type Receiver struct {
	socket *Socket
	batch  *C.batch
}

// NewReceiver returns a receiver of the socket, which the caller must close
// before the socket.
func (s *Socket) NewReceiver() (*Receiver, error) {
	b := (*C.batch)(C.calloc(1, C.sizeof_batch))
	if b == nil {
		return nil, errors.New("allocate a batch: out of memory")
	}
	return &Receiver{socket: s, batch: b}, nil
}

// Each calls f with each message that has arrived, up to one batch of 100,
// without waiting. It reports whether there may be more. The frames are not
// valid after f returns.
func (r *Receiver) Each(f func(*Message)) (more bool) {
	more = C.receive_batch(r.socket.ptr, r.batch) != 0
	defer C.close_batch(r.batch)
	var m Message
	for i := range r.batch.messages[:r.batch.count] {
		from := &r.batch.messages[i]
		m = Message{Count: int(from.count), first: unsafe.Pointer(&from.frame[0])}
		for j := range min(m.Count, MaxFrames) {
			m.Frames[j] = unsafe.Slice((*byte)(from.data[j]), from.size[j])
		}
		f(&m)
	}
	return more
}

// Close releases the memory of the receiver, and leaves the socket open.
func (r *Receiver) Close() { C.free(unsafe.Pointer(r.batch)) }

// Source returns the descriptor of the connection that the message arrived on, or
// -1. A Monitor reports it with Connected.
func (m *Message) Source() int {
	if m.first == nil {
		return -1
	}
	return int(C.source((*C.zmq_msg_t)(m.first)))
}
