//go:build cgo && !nozmq

package broker

/*
#cgo !windows pkg-config: libzmq
#cgo windows LDFLAGS: -lzmq
#include <stdlib.h>
#include "relay.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"github.com/dynplane/dynplane/internal/rawzmq"
)

// relay is a pair of sockets and the loop in C between them.
type relay struct {
	zctx       *rawzmq.Context
	xsub, xpub *rawzmq.Socket
	maxQueued  int

	mu       sync.Mutex               // held to free counters, and to read them in Go
	counters *C.struct_relay_counters // C writes until zctx is terminated; then nil
	final    Stats                    // the result of stats from then on
}

// newRelay opens a relay. If it fails, the caller must close the relay that it
// returns nevertheless.
func newRelay(opts Options) (*relay, error) {
	r := &relay{
		maxQueued: opts.MaxQueued,
		counters:  (*C.struct_relay_counters)(C.calloc(1, C.sizeof_struct_relay_counters)),
	}
	var err error
	if r.zctx, err = rawzmq.NewContext(opts.IOThreads); err != nil {
		return r, err
	}
	options := rawzmq.Options{SendHWM: opts.HWM, ReceiveHWM: min(opts.HWM, rawzmq.ReceiveHWM)}
	options.MaxFrame = rawzmq.DefaultMaxFrame
	if r.xsub, err = r.zctx.Socket(rawzmq.XSUB, options); err != nil {
		return r, err
	}
	// A PUB does for subscribers what an XPUB does, but does not report
	// subscriptions, which the relay would discard: those of a flood are applied as
	// they arrive and not queued in another list.
	options.ReceiveHWM, options.MaxFrame, options.Heartbeats = rawzmq.Unlimited, rawzmq.MaxSubscription, true
	if r.xpub, err = r.zctx.Socket(rawzmq.PUB, options); err != nil {
		return r, err
	}
	if err := r.xpub.Set(rawzmq.XPubNoDrop, 1); err != nil {
		return r, err
	}
	if err := r.xsub.SendFrame([]byte{1}, false); err != nil { // a subscription without a prefix
		return r, fmt.Errorf("subscribe to everything: %w", err)
	}
	return r, nil
}

// bind returns the endpoint that was bound, with the port that the system chose.
func (r *relay) bind(socket *rawzmq.Socket, endpoint string) (string, error) {
	if strings.HasPrefix(endpoint, "tcp://[") {
		if err := socket.Set(rawzmq.IPv6, 1); err != nil {
			return "", err
		}
	}
	if err := socket.Bind(endpoint); err != nil {
		return "", fmt.Errorf("bind to %q: %w", endpoint, err)
	}
	return socket.LastEndpoint()
}

// run blocks until stop is readable.
func (r *relay) run(stop uintptr) error {
	errno := C.relay_run(r.xsub.Pointer(), r.xpub.Pointer(), C.int(stop), C.uint64_t(r.maxQueued), r.counters)
	if errno != 0 {
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

// freeCounters must be called when no thread of libzmq is left.
func (r *relay) freeCounters() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.final = r.load()
	C.free(unsafe.Pointer(r.counters))
	r.counters = nil
}

// close closes the sockets and the context, as far as newRelay has opened them.
func (r *relay) close() error {
	var errs []error
	for _, s := range []*rawzmq.Socket{r.xsub, r.xpub} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	if r.zctx != nil {
		if err := r.zctx.Term(); err != nil {
			return errors.Join(append(errs, err)...) // threads of libzmq may still write the counters
		}
	}
	r.freeCounters()
	return errors.Join(errs...)
}
