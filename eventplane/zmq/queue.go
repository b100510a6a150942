package zmq

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// item is a received message, or the error of a malformed one.
type item struct {
	publisherID, sequence uint64
	body                  []byte
	malformed             *driver.FrameError
}

// queue passes items from one writer to one reader. It is bounded in items and
// in bytes, and drops the newest. The reader takes over all waiting items at
// once, so that it locks once per batch.
type queue struct {
	maxCount, maxBytes int64
	count, bytes       atomic.Int64 // of all items on both sides
	dropped            atomic.Uint64

	ready chan struct{} // holds a token if waiting is not empty
	done  chan struct{} // closed by close
	once  sync.Once
	err   error // cause of close, set before done is closed

	mu      sync.Mutex
	waiting []item

	batch []item // used only by the reader
	next  int    // index of the first item of batch that was not returned
}

func newQueue(maxCount, maxBytes int) *queue {
	return &queue{
		maxCount: int64(maxCount),
		maxBytes: int64(maxBytes),
		ready:    make(chan struct{}, 1),
		done:     make(chan struct{}),
	}
}

// admit reports whether there is room for an item with a body of n bytes, and
// counts the item as dropped if not. A single item may exceed the bound in
// bytes, else it could never be received. There is one writer, so that the room
// is still there when it has built the item and calls push.
func (q *queue) admit(n int) bool {
	count, bytes := q.count.Load(), q.bytes.Load()
	if count >= q.maxCount || count > 0 && bytes+int64(n) > q.maxBytes {
		q.dropped.Add(1)
		return false
	}
	return true
}

// push adds an item that was admitted.
func (q *queue) push(it item) {
	q.count.Add(1)
	q.bytes.Add(int64(len(it.body)))
	q.mu.Lock()
	q.waiting = append(q.waiting, it)
	first := len(q.waiting) == 1
	q.mu.Unlock()
	if first {
		select {
		case q.ready <- struct{}{}:
		default:
		}
	}
}

// pop blocks until there is an item, ctx is done, or the queue is closed.
func (q *queue) pop(ctx context.Context) (item, error) {
	for {
		select {
		case <-q.done:
			return item{}, q.err
		default:
		}
		if err := ctx.Err(); err != nil {
			return item{}, err
		}
		if it, ok := q.tryPop(); ok {
			return it, nil
		}
		select {
		case <-q.ready:
		case <-ctx.Done():
		case <-q.done:
		}
	}
}

// tryPop returns the next item if there is one.
func (q *queue) tryPop() (item, bool) {
	if q.next == len(q.batch) {
		q.mu.Lock()
		q.batch, q.waiting, q.next = q.waiting, q.batch[:0], 0
		q.mu.Unlock()
		if len(q.batch) == 0 {
			return item{}, false
		}
	}
	it := q.batch[q.next]
	q.batch[q.next] = item{} // now only the application holds the body
	q.next++
	q.count.Add(-1)
	q.bytes.Add(-int64(len(it.body)))
	return it, true
}

// close ends the queue: pop returns err from now on, even if items wait.
func (q *queue) close(err error) {
	q.once.Do(func() {
		q.err = err
		close(q.done)
	})
}
