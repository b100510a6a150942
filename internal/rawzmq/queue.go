//go:build cgo && !nozmq

package rawzmq

/*
#include "queue.h"
*/
import "C"

import (
	"errors"
	"sync/atomic"
	"unsafe"
)

// C.LARGE_FRAME equals LargeFrame, or this does not compile.
var _ [LargeFrame]struct{} = [C.LARGE_FRAME]struct{}{}

// Queue counts the bytes of large frames that were sent and that libzmq has not
// freed: frames that wait for a peer, and those on their way. A frame that waits for
// several peers counts once. Its memory is C's.
type Queue struct{ ptr *C.struct_queue }

// NewQueue returns a queue that counts nothing yet. The caller must call Release.
func NewQueue() (Queue, error) {
	q := Queue{(*C.struct_queue)(C.calloc(1, C.sizeof_struct_queue))}
	if q.ptr == nil {
		return q, errors.New("allocate a counter: out of memory")
	}
	q.ptr.references = 1
	return q, nil
}

// Bytes returns the number of bytes. It must not be called after Release.
func (q Queue) Bytes() int { return int(atomic.LoadInt64((*int64)(unsafe.Pointer(&q.ptr.bytes)))) }

// Release frees the queue, once libzmq has freed all frames that it counts.
func (q Queue) Release() {
	if q.ptr != nil {
		C.release_queue(q.ptr)
	}
}
