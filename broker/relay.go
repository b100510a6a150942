//go:build cgo && !nozmq

package broker

/*
#cgo !windows pkg-config: libzmq
#cgo windows LDFLAGS: -lzmq
#include <zmq.h>
#include <stdlib.h>
#include "relay.h"

static int set (void *socket, int option, int value)
{
    return zmq_setsockopt (socket, option, &value, sizeof value);
}

static int set_max (void *socket, int64_t value)
{
    return zmq_setsockopt (socket, ZMQ_MAXMSGSIZE, &value, sizeof value);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"unsafe"
)

// relay is a pair of libzmq sockets and the loop in C between them. The
// sockets are libzmq's own, without a wrapper around them, for C to work on.
type relay struct {
	zctx, xsub, xpub unsafe.Pointer
	maxQueued        int

	mu       sync.Mutex               // held to free counters, and to read them in Go
	counters *C.struct_relay_counters // C writes until the context is terminated; then nil
	final    Stats                    // from then on
}

const (
	maxMessage = 64 << 20 // bytes of one frame; a peer that sends more is cut off
	// A subscription is all that the XPUB side hears. libzmq keeps a node of a
	// tree for each of its bytes and walks it recursively: one of a megabyte
	// overflows the stack.
	maxSubscription = 4 << 10
	// The relay drains what arrives at once, so that a burst waits for the
	// subscribers, where its bytes are counted; before, it may wait at the
	// publishers.
	maxReceiveHWM = 1000
)

func newRelay(opts Options) (*relay, error) {
	r := &relay{
		maxQueued: opts.MaxQueued,
		counters:  (*C.struct_relay_counters)(C.calloc(1, C.sizeof_struct_relay_counters)),
	}
	var err error
	if r.zctx, err = C.zmq_ctx_new(); r.zctx == nil {
		return r, fmt.Errorf("open a context: %w", err)
	}
	if rc, err := C.zmq_ctx_set(r.zctx, C.ZMQ_IO_THREADS, C.int(opts.IOThreads)); rc != 0 {
		return r, fmt.Errorf("use %d threads: %w", opts.IOThreads, err)
	}
	if r.xsub, err = r.socket(C.ZMQ_XSUB, maxMessage, opts.HWM); err != nil {
		return r, err
	}
	if r.xpub, err = r.socket(C.ZMQ_XPUB, maxSubscription, opts.HWM); err != nil {
		return r, err
	}
	if rc, err := C.set(r.xpub, C.ZMQ_XPUB_NODROP, 1); rc != 0 {
		return r, fmt.Errorf("set XPUB_NODROP: %w", err)
	}
	everything := []byte{1} // a subscription without a prefix
	if rc, err := C.zmq_send(r.xsub, unsafe.Pointer(&everything[0]), 1, C.ZMQ_DONTWAIT); rc != 1 {
		return r, fmt.Errorf("subscribe to everything: %w", err)
	}
	return r, nil
}

func (r *relay) socket(kind C.int, maxFrame int64, hwm int) (unsafe.Pointer, error) {
	s, err := C.zmq_socket(r.zctx, kind)
	if s == nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	if rc, err := C.set_max(s, C.int64_t(maxFrame)); rc != 0 {
		return s, fmt.Errorf("set MAXMSGSIZE to %d: %w", maxFrame, err)
	}
	for _, o := range []struct {
		name   string
		option C.int
		value  int
	}{
		{"SNDHWM", C.ZMQ_SNDHWM, hwm},
		{"RCVHWM", C.ZMQ_RCVHWM, min(hwm, maxReceiveHWM)},
		{"LINGER", C.ZMQ_LINGER, 200}, // ms; 0 can abort the process while a peer leaves: libzmq issue 3442
		{"TCP_KEEPALIVE", C.ZMQ_TCP_KEEPALIVE, 1},
		{"HEARTBEAT_IVL", C.ZMQ_HEARTBEAT_IVL, 1000},
		{"HEARTBEAT_TIMEOUT", C.ZMQ_HEARTBEAT_TIMEOUT, 3000},
	} {
		if rc, err := C.set(s, o.option, C.int(o.value)); rc != 0 {
			return s, fmt.Errorf("set %s to %d: %w", o.name, o.value, err)
		}
	}
	return s, nil
}

// bind returns what was really bound.
func (r *relay) bind(socket unsafe.Pointer, endpoint string) (string, error) {
	if strings.HasPrefix(endpoint, "tcp://[") {
		if rc, err := C.set(socket, C.ZMQ_IPV6, 1); rc != 0 {
			return "", fmt.Errorf("set IPV6: %w", err)
		}
	}
	c := C.CString(endpoint)
	defer C.free(unsafe.Pointer(c))
	if rc, err := C.zmq_bind(socket, c); rc != 0 {
		return "", fmt.Errorf("bind to %q: %w", endpoint, err)
	}
	var bound [256]C.char
	size := C.size_t(len(bound))
	//nolint:gocritic // sees what cgo makes of it
	if rc, err := C.zmq_getsockopt(socket, C.ZMQ_LAST_ENDPOINT, unsafe.Pointer(&bound[0]), &size); rc != 0 {
		return "", fmt.Errorf("ask where %q is bound: %w", endpoint, err)
	}
	return C.GoString(&bound[0]), nil
}

// run blocks until stop is readable.
func (r *relay) run(stop uintptr) error {
	if errno := C.relay_run(r.xsub, r.xpub, C.int(stop), C.uint64_t(r.maxQueued), r.counters); errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}

func (r *relay) stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counters == nil {
		return r.final
	}
	return r.load()
}

func (r *relay) load() Stats {
	return Stats{
		Messages:  uint64(C.relay_load(&r.counters.messages)),
		Bytes:     uint64(C.relay_load(&r.counters.bytes)),
		Overflows: uint64(C.relay_load(&r.counters.overflows)),
		Dropped:   uint64(C.relay_load(&r.counters.dropped)),
		Queued:    uint64(C.relay_load(&r.counters.queued)),
	}
}

// freeCounters is for when no thread of libzmq is left.
func (r *relay) freeCounters() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.final = r.load()
	C.free(unsafe.Pointer(r.counters))
	r.counters = nil
}

// close closes what newRelay has opened, which after a failure is not all.
func (r *relay) close() error {
	var errs []error
	for _, s := range []unsafe.Pointer{r.xsub, r.xpub} {
		if s == nil {
			continue
		}
		if rc, err := C.zmq_close(s); rc != 0 {
			errs = append(errs, err)
		}
	}
	if r.zctx == nil {
		r.freeCounters()
		return errors.Join(errs...)
	}
	for {
		rc, err := C.zmq_ctx_term(r.zctx)
		if rc == 0 {
			r.freeCounters()
			return errors.Join(errs...)
		}
		if !errors.Is(err, syscall.EINTR) {
			return errors.Join(append(errs, err)...)
		}
	}
}
