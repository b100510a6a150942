//go:build cgo && !nozmq

package rawzmq

/*
#cgo !windows pkg-config: libzmq
#cgo windows LDFLAGS: -lzmq
#include <errno.h>
#include <zmq.h>

#ifndef _WIN32
#include <sys/resource.h>
#endif

// libzmq has ZMQ_ZERO_COPY_RECV since 4.3.0, but its header only shows it to drafts.
enum { zero_copy_receive = 10 };

// set_max_sockets allows as many sockets as the process may have files: each has
// at least one. The limit of libzmq itself is 65,535.
static int set_max_sockets(void *context) {
	int n = ZMQ_MAX_SOCKETS_DFLT;
#ifndef _WIN32
	struct rlimit files;
	int most = zmq_ctx_get(context, ZMQ_SOCKET_LIMIT);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur > (rlim_t) n)
		n = files.rlim_cur < (rlim_t) most ? (int) files.rlim_cur : most;
#endif
	return zmq_ctx_set(context, ZMQ_MAX_SOCKETS, n);
}

static int terminate(void *context) {
	int rc;
	do
		rc = zmq_ctx_term(context);
	while (rc < 0 && zmq_errno() == EINTR);
	return rc;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// Context owns libzmq's threads. All methods are safe for concurrent use, but
// no socket may be opened after Term was called.
type Context struct {
	ptr    unsafe.Pointer
	inproc atomic.Uint64 // number of endpoints inside of this process so far
}

// NewContext returns a context with that many threads for network input and
// output, which libzmq starts with the first socket.
func NewContext(ioThreads int) (*Context, error) {
	ptr, err := C.zmq_ctx_new()
	if ptr == nil {
		return nil, fmt.Errorf("open a context: %w", failure(err))
	}
	c := &Context{ptr: ptr}
	if rc, err := C.zmq_ctx_set(ptr, C.ZMQ_IO_THREADS, C.int(ioThreads)); rc != 0 {
		return nil, errors.Join(fmt.Errorf("use %d threads: %w", ioThreads, failure(err)), c.Term())
	}
	if rc, err := C.set_max_sockets(ptr); rc != 0 {
		return nil, errors.Join(fmt.Errorf("allow more sockets: %w", failure(err)), c.Term())
	}
	// A small message would hold the buffer in which it arrived, which is up to a
	// hundred times as large, as long as it waits for a slow peer.
	if rc, err := C.zmq_ctx_set(ptr, C.zero_copy_receive, 0); rc != 0 {
		return nil, errors.Join(fmt.Errorf("copy what is received: %w", failure(err)), c.Term())
	}
	return c, nil
}

// Term blocks until every socket of the context is closed and has sent its
// messages, or given them up after its linger time, and all threads have ended.
func (c *Context) Term() error {
	if rc, err := C.terminate(c.ptr); rc != 0 {
		return fmt.Errorf("terminate the context: %w", failure(err))
	}
	return nil
}

// endpoint returns an endpoint inside of this process that no other socket of
// the context has.
func (c *Context) endpoint() string { return fmt.Sprintf("inproc://%d", c.inproc.Add(1)) }

// Version returns the version of libzmq, such as 4.3.5.
func Version() string {
	var major, minor, patch C.int
	C.zmq_version(&major, &minor, &patch)
	return fmt.Sprintf("%d.%d.%d", major, minor, patch)
}

// failure returns err, the errno of a call, with libzmq's text for the numbers
// that only libzmq uses.
func failure(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok && errno > C.ZMQ_HAUSNUMERO {
		return fmt.Errorf("%s: %w", C.GoString(C.zmq_strerror(C.int(errno))), err)
	}
	return err
}
