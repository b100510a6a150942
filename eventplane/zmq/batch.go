//go:build cgo && !nozmq

package zmq

/*
#cgo !windows pkg-config: libzmq
#include <errno.h>
#include <stdlib.h>
#include <zmq.h>

enum { FRAMES = 4, MESSAGES = 100 };

typedef struct {
	zmq_msg_t frame[FRAMES];
	void *data[FRAMES];
	size_t size[FRAMES];
	size_t count; // frames that came; those beyond FRAMES are not kept
} message;

typedef struct {
	message messages[MESSAGES];
	size_t count;
} batch;

static void close_message(message *m) {
	for (size_t i = 0; i < m->count && i < FRAMES; i++)
		zmq_msg_close(&m->frame[i]);
}

// receive_frame tries again when a signal interrupts it, and Go sends its
// threads many: a message must not be cut between two frames.
static int receive_frame(void *socket, zmq_msg_t *frame) {
	int n;
	do
		n = zmq_msg_recv(frame, socket, ZMQ_DONTWAIT);
	while (n < 0 && zmq_errno() == EINTR);
	return n;
}

// receive_message returns whether there was a message. Frames come all or none, so that after the first the others are there.
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
*/
import "C"

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"unsafe"

	zmq "github.com/pebbe/zmq4"
)

// As many frames there as here, or this does not compile.
var _ [frameCount]struct{} = [C.FRAMES]struct{}{}

// receiver takes messages off a socket in batches, and shows them where
// libzmq has them: what nobody wants is never copied. It is not safe for
// concurrent use. Its memory is C's, which keeps its own pointers there.
type receiver struct {
	socket *zmq.Socket // its finalizer closes raw
	raw    unsafe.Pointer
	batch  *C.batch
}

func newReceiver(socket *zmq.Socket) (*receiver, error) {
	raw, err := rawSocket(socket)
	if err != nil {
		return nil, err
	}
	b := (*C.batch)(C.calloc(1, C.sizeof_batch))
	if b == nil {
		return nil, errors.New("out of memory")
	}
	return &receiver{socket: socket, raw: raw, batch: b}, nil
}

// rawSocket returns libzmq's own handle, which zmq4 has no method for.
func rawSocket(socket any) (unsafe.Pointer, error) {
	v := reflect.Indirect(reflect.ValueOf(socket))
	soc := v.FieldByName("soc")
	if !soc.IsValid() || soc.Kind() != reflect.UnsafePointer {
		return nil, fmt.Errorf("%s has no field soc of type unsafe.Pointer: want the github.com/pebbe/zmq4 of go.mod", v.Type())
	}
	return soc.UnsafePointer(), nil
}

// each calls f with what is there, without waiting, one batch at most, and
// tells whether there may be more. Nothing of the frames outlives the call.
func (r *receiver) each(f func(*frames)) (more bool) {
	more = C.receive_batch(r.raw, r.batch) != 0
	defer runtime.KeepAlive(r.socket)
	defer C.close_batch(r.batch)
	var parts frames
	for i := range r.batch.messages[:r.batch.count] {
		m := &r.batch.messages[i]
		parts = frames{count: int(m.count)}
		for j := range min(parts.count, frameCount) {
			parts.part[j] = unsafe.Slice((*byte)(m.data[j]), m.size[j])
		}
		f(&parts)
	}
	return more
}

// close releases the memory, not the socket.
func (r *receiver) close() { C.free(unsafe.Pointer(r.batch)) }
