//go:build cgo && !nozmq

package rawzmq

/*
#include <zmq.h>

// use_descriptor replaces the socket of an item by its file descriptor.
static int use_descriptor(zmq_pollitem_t *item) {
	size_t size = sizeof item->fd;
	int rc = zmq_getsockopt(item->socket, ZMQ_FD, &item->fd, &size);
	item->socket = NULL;
	return rc;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// Poller waits until one of several sockets is readable. It is not safe for
// concurrent use.
type Poller struct{ items []C.zmq_pollitem_t }

// NewPoller returns a poller of sockets, which Readable numbers in this order.
func NewPoller(sockets ...*Socket) *Poller {
	p := &Poller{items: make([]C.zmq_pollitem_t, len(sockets))}
	for i, s := range sockets {
		p.items[i] = C.zmq_pollitem_t{socket: s.ptr, events: C.ZMQ_POLLIN}
	}
	return p
}

// AddShared adds a socket that other goroutines use while Wait runs. It is the
// next one that Readable numbers. The poller does not touch the socket, but
// waits for a signal of libzmq's threads that it has something new. Any use of
// the socket may consume the signal, so that Readable may miss messages that
// arrived before the last use.
func (p *Poller) AddShared(s *Socket) error {
	item := C.zmq_pollitem_t{socket: s.ptr, events: C.ZMQ_POLLIN}
	//nolint:gocritic // it checks the code that cgo generates
	if rc, err := C.use_descriptor(&item); rc != 0 {
		return fmt.Errorf("get the descriptor of a socket: %w", failure(err))
	}
	p.items = append(p.items, item)
	return nil
}

// Wait blocks until a socket is readable, or for timeout, rounded up to
// milliseconds; a negative timeout is none. A signal ends it early.
func (p *Poller) Wait(timeout time.Duration) error {
	ms := C.long(-1)
	if timeout >= 0 {
		ms = C.long((timeout + time.Millisecond - 1) / time.Millisecond)
	}
	rc, err := C.zmq_poll(&p.items[0], C.int(len(p.items)), ms)
	if rc >= 0 {
		return nil
	}
	for i := range p.items { // they are those of the call before
		p.items[i].revents = 0
	}
	if errors.Is(err, syscall.EINTR) {
		return nil
	}
	return failure(err)
}

// Readable reports whether socket i was readable when Wait returned.
func (p *Poller) Readable(i int) bool { return p.items[i].revents != 0 }
