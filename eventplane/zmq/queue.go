package zmq

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// item is one received message, or what is wrong with it.
type item struct {
	publisherID, sequence uint64
	body                  []byte
	malformed             *driver.FrameError
}

// queue hands items from one writer to one reader. It is bounded in items and
// in bytes, and drops the newest. The reader takes all that is waiting at
// once, so that the lock is taken once per batch on its side.
type queue struct {
	maxCount, maxBytes int64
	count, bytes       atomic.Int64 // of what waits, on both sides
	dropped            atomic.Uint64

	ready chan struct{} // holds a token when waiting is not empty
	done  chan struct{} // closed with the queue
	once  sync.Once
	err   error // why; set before done is closed

	mu      sync.Mutex
	waiting []item

	taken []item // the reader's own, next is its first
	next  int
}

func newQueue(maxCount int) *queue {
	return &queue{
		maxCount: int64(maxCount),
		maxBytes: maxQueueBytes,
		ready:    make(chan struct{}, 1),
		done:     make(chan struct{}),
	}
}

// admit tells whether there is room for an item with a body of n bytes, and
// counts it as dropped where there is none. A single item may exceed the bound
// in bytes, else it could never be received. What it allows, the writer may
// push, and nobody else takes the room: so it can ask before it makes the item.
func (q *queue) admit(n int) bool {
	count, bytes := q.count.Load(), q.bytes.Load()
	if count >= q.maxCount || count > 0 && bytes+int64(n) > q.maxBytes {
		q.dropped.Add(1)
		return false
	}
	return true
}

// push adds it, which was admitted.
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

// pop blocks until there is an item, ctx is done or the queue is closed.
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
		if it, ok := q.take(); ok {
			return it, nil
		}
		select {
		case <-q.ready:
		case <-ctx.Done():
		case <-q.done:
		}
	}
}

// take returns the next item if there is one.
func (q *queue) take() (item, bool) {
	if q.next == len(q.taken) {
		q.mu.Lock()
		q.taken, q.waiting, q.next = q.waiting, q.taken[:0], 0
		q.mu.Unlock()
		if len(q.taken) == 0 {
			return item{}, false
		}
	}
	it := q.taken[q.next]
	q.taken[q.next] = item{} // lets the body go when the application does
	q.next++
	q.count.Add(-1)
	q.bytes.Add(-int64(len(it.body)))
	return it, true
}

// close ends the queue: pop returns err from now on, whatever still waits.
func (q *queue) close(err error) {
	q.once.Do(func() {
		q.err = err
		close(q.done)
	})
}
