//go:build cgo && !nozmq

package rawzmq

/*
#include <errno.h>
#include <fcntl.h>
#include <zmq.h>

// duplicate_descriptor returns a copy of the descriptor that is readable while
// libzmq's threads have something new for the socket, or -1.
static int duplicate_descriptor(void *socket) {
	int fd;
	size_t size = sizeof fd;
	if (zmq_getsockopt(socket, ZMQ_FD, &fd, &size) < 0)
		return -1;
	return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

// has_input applies what libzmq's threads have queued for the socket, and returns
// whether a message can be received.
static int has_input(void *socket) {
	int events, rc;
	size_t size = sizeof events;
	do
		rc = zmq_getsockopt(socket, ZMQ_EVENTS, &events, &size);
	while (rc < 0 && zmq_errno() == EINTR);
	return rc == 0 && (events & ZMQ_POLLIN);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Waiter waits for a socket in Go's poller, so that no thread of the system is
// blocked. Several goroutines may use the socket under a lock of theirs meanwhile:
// libzmq signals that it has something new, and any use of the socket may consume
// the signal. After such a use, Wake or SetDeadline must make Wait return, or the
// user of the socket must itself look for messages.
type Waiter struct {
	file *os.File
	conn syscall.RawConn
}

// NewWaiter returns a waiter for the socket. It may be closed before or after the
// socket.
func (s *Socket) NewWaiter() (*Waiter, error) {
	fd, err := C.duplicate_descriptor(s.ptr)
	if fd < 0 {
		return nil, fmt.Errorf("get the descriptor of a socket: %w", failure(err))
	}
	w := &Waiter{file: os.NewFile(uintptr(fd), "libzmq socket")}
	if w.conn, err = w.file.SyscallConn(); err == nil {
		err = w.SetDeadline(time.Time{}) // fails unless the descriptor can be polled
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("poll the descriptor of a socket: %w", err), w.Close())
	}
	return w, nil
}

// Wait calls ready, and again after each signal of libzmq, until it returns true, or
// the deadline has passed and the error is os.ErrDeadlineExceeded. Before it returns false, ready must have used the socket
// until it had nothing more. Wait must be called by one goroutine at a time.
func (w *Waiter) Wait(ready func() bool) error {
	return w.conn.Read(func(uintptr) bool { return ready() })
}

// SetDeadline makes Wait return at t, which may be in the past; zero is never. It
// is safe for concurrent use.
func (w *Waiter) SetDeadline(t time.Time) error { return w.file.SetReadDeadline(t) }

// Close ends Wait.
func (w *Waiter) Close() error { return w.file.Close() }

// HasInput applies what libzmq's threads have queued for the socket: peers that came
// and went, and the subscriptions at a PUB. It reports whether a message can be
// received.
func (s *Socket) HasInput() bool { return C.has_input(s.ptr) != 0 }
