//go:build cgo && !nozmq

package rawzmq

/*
#include <zmq.h>
*/
import "C"

import (
	"errors"
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
