//go:build cgo && !nozmq

package rawzmq

/*
#include <stdlib.h>
#include <zmq.h>
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

// Kind is the type of a socket.
type Kind int

// The kinds of sockets that this module uses.
const (
	PUB  Kind = C.ZMQ_PUB
	SUB  Kind = C.ZMQ_SUB
	XPUB Kind = C.ZMQ_XPUB
	XSUB Kind = C.ZMQ_XSUB

	ROUTER Kind = C.ZMQ_ROUTER // returns EHOSTUNREACH if there is no such peer
	DEALER Kind = C.ZMQ_DEALER
)

// Socket is a socket of libzmq. It is not safe for concurrent use, and must
// not be used after Close.
type Socket struct {
	ctx   *Context
	ptr   unsafe.Pointer
	queue Queue

	linger int // milliseconds; see set
}

// Socket opens a socket that communicates with peers of a network.
func (c *Context) Socket(kind Kind, o Options) (*Socket, error) {
	s, err := c.open(C.int(kind))
	if err != nil {
		return nil, err
	}
	if err := s.set(kind, o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (c *Context) open(kind C.int) (*Socket, error) {
	ptr, err := C.zmq_socket(c.ptr, kind)
	if ptr == nil {
		return nil, fmt.Errorf("open a socket: %w", failure(err))
	}
	s := &Socket{ctx: c, ptr: ptr}
	if s.queue, err = NewQueue(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// pairEnd opens one end of a connection inside of this process. It has no high-water mark: the monitor of a
// socket would block libzmq's threads at it.
func (c *Context) pairEnd(endpoint string, attach func(*Socket, string) error) (*Socket, error) {
	s, err := c.open(C.ZMQ_PAIR)
	if err != nil {
		return nil, err
	}
	err = errors.Join(s.Set(lingerTime, 0), s.Set(receiveHWM, 0), s.Set(SendHWM, 0), attach(s, endpoint))
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Pointer returns libzmq's handle, for code in C that works on the socket.
func (s *Socket) Pointer() unsafe.Pointer { return s.ptr }

// Queued returns the size of the large frames that Send has sent and libzmq has not
// freed, in bytes.
func (s *Socket) Queued() int { return s.queue.Bytes() }

// Close closes the socket. Queued messages are still sent for the linger time.
func (s *Socket) Close() error {
	defer s.queue.Release()
	if rc, err := C.zmq_close(s.ptr); rc != 0 {
		return fmt.Errorf("close a socket: %w", failure(err))
	}
	return nil
}

// Bind listens on endpoint. Port * is a free one that the system chooses;
// LastEndpoint returns it.
func (s *Socket) Bind(endpoint string) error {
	c := C.CString(endpoint)
	defer C.free(unsafe.Pointer(c))
	if s.linger > 0 {
		// The connections inherit it. That of the socket still applies when it is closed.
		if err := s.Set(lingerTime, int(brokenLinger.Milliseconds())); err != nil {
			return err
		}
		defer func() { _ = s.Set(lingerTime, s.linger) }() // it fails for no such value
	}
	if rc, err := C.zmq_bind(s.ptr, c); rc != 0 {
		return failure(err)
	}
	return nil
}

// Connect adds a peer. libzmq connects and reconnects in the background.
func (s *Socket) Connect(endpoint string) error {
	c := C.CString(endpoint)
	defer C.free(unsafe.Pointer(c))
	if rc, err := C.zmq_connect(s.ptr, c); rc != 0 {
		return failure(err)
	}
	return nil
}

// Disconnect removes a peer, and discards the messages from it that were not
// received yet.
func (s *Socket) Disconnect(endpoint string) error {
	c := C.CString(endpoint)
	defer C.free(unsafe.Pointer(c))
	if rc, err := C.zmq_disconnect(s.ptr, c); rc != 0 {
		return failure(err)
	}
	return nil
}

// LastEndpoint returns the endpoint that was bound or connected last, with the
// port that the system chose.
func (s *Socket) LastEndpoint() (string, error) {
	var endpoint [256]C.char
	size := C.size_t(len(endpoint))
	//nolint:gocritic // it checks the code that cgo generates
	if rc, err := C.zmq_getsockopt(s.ptr, C.ZMQ_LAST_ENDPOINT, unsafe.Pointer(&endpoint[0]), &size); rc != 0 {
		return "", fmt.Errorf("read the endpoint: %w", failure(err))
	}
	return C.GoString(&endpoint[0]), nil
}

// Subscribe adds a subscription of a SUB socket.
func (s *Socket) Subscribe(prefix string) error { return s.setPrefix(C.ZMQ_SUBSCRIBE, prefix) }

// Unsubscribe removes a subscription of a SUB socket.
func (s *Socket) Unsubscribe(prefix string) error { return s.setPrefix(C.ZMQ_UNSUBSCRIBE, prefix) }

func (s *Socket) setPrefix(option C.int, prefix string) error {
	c := C.CString(prefix)
	defer C.free(unsafe.Pointer(c))
	if rc, err := C.zmq_setsockopt(s.ptr, option, unsafe.Pointer(c), C.size_t(len(prefix))); rc != 0 {
		return failure(err)
	}
	return nil
}
