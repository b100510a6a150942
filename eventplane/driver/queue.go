package driver

import (
	"context"
	"fmt"
	"sync"
)

// Overflow selects what a full queue of received messages does.
type Overflow int

// The policies. A driver counts the messages that it drops.
const (
	DropOldest Overflow = iota // drop the oldest message
	DropNewest                 // drop the message that arrives
	Block                      // receive no more until there is room: the transport queues, and then drops
)

// String returns the policy as it is written on the command line.
func (o Overflow) String() string {
	switch o {
	case DropOldest:
		return "drop-oldest"
	case DropNewest:
		return "drop-newest"
	case Block:
		return "block"
	}
	return fmt.Sprintf("Overflow(%d)", int(o))
}

// The bounds of a queue whose options are 0.
const (
	DefaultQueueSize  = 65_536
	DefaultQueueBytes = 64 << 20
)

// QueueOptions are the settings of a subscriber's queue.
type QueueOptions struct {
	Size     int // messages; 0 means DefaultQueueSize
	Bytes    int // of their bodies; 0 means DefaultQueueBytes
	Overflow Overflow
}

// WithDefaults returns o with the defaults in place of zeros, or an error that
// names the invalid option.
func (o QueueOptions) WithDefaults() (QueueOptions, error) {
	switch {
	case o.Size < 0:
		return o, fmt.Errorf("queue size %d: want 0 (for %d) or more", o.Size, DefaultQueueSize)
	case o.Bytes < 0:
		return o, fmt.Errorf("queue bytes %d: want 0 (for %d) or more", o.Bytes, DefaultQueueBytes)
	case o.Overflow < DropOldest || o.Overflow > Block:
		return o, fmt.Errorf("overflow policy %v: want DropOldest, DropNewest or Block", o.Overflow)
	}
	if o.Size == 0 {
		o.Size = DefaultQueueSize
	}
	if o.Bytes == 0 {
		o.Bytes = DefaultQueueBytes
	}
	return o, nil
}

// Queue passes received items from one writer to one reader, within the bounds of
// its options. A single item may exceed the bound in bytes, else it could never be
// received.
type Queue[T any] struct {
	options QueueOptions
	ready   chan struct{} // holds a token if there are items, or the end
	room    chan struct{} // holds a token if there may be room; only with Block
	closed  chan struct{}
	once    sync.Once

	mu        sync.Mutex
	items     []sized[T] // circular
	first     int        // index in items
	count     int
	bytes     int
	dropped   uint64
	announced announcements[T]
	end       error // of End
	err       error // of Close
}

type sized[T any] struct {
	item    T
	size    int
	control bool // not counted when it is dropped
}

// NewQueue returns a queue. The options must have their defaults.
func NewQueue[T any](o QueueOptions) *Queue[T] {
	return &Queue[T]{
		options: o,
		ready:   make(chan struct{}, 1), room: make(chan struct{}, 1), closed: make(chan struct{}),
	}
}

// Admit reports whether an item of the given size is to be pushed: a queue that
// drops the newest counts it as dropped if there is no room. Since there is one
// writer, there is still room when it has made the item.
func (q *Queue[T]) Admit(size int) bool {
	if q.options.Overflow != DropNewest {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.full(size) {
		q.dropped++
		return false
	}
	return true
}

// full reports whether an item of the given size does not fit. The caller holds mu.
func (q *Queue[T]) full(size int) bool {
	return q.count >= q.options.Size || q.count > 0 && q.bytes+size > q.options.Bytes
}

// Push adds an item that was admitted. A queue that drops the oldest makes room for
// it; one that blocks leaves that to Wait.
func (q *Queue[T]) Push(item T, size int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.options.Overflow == DropOldest && q.full(size) {
		it := q.remove()
		q.announced.add(&q.announced.early, it.item)
		if !it.control {
			q.dropped++
		}
	}
	q.appendLate()
	q.append(sized[T]{item, size, false})
}

// appendLate adds the announcements of items that were dropped after those in the
// queue, before the next one. The caller holds mu.
func (q *Queue[T]) appendLate() {
	for publisher, control := range q.announced.late {
		delete(q.announced.late, publisher)
		q.append(sized[T]{control, 0, true})
	}
}

// PushControl adds an item that is not counted if it is dropped, and that no other is
// dropped for: a queue that is full drops the new one, but announces its publisher.
func (q *Queue[T]) PushControl(item T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.full(0) {
		q.announced.add(&q.announced.late, item)
		return
	}
	q.appendLate()
	q.append(sized[T]{item, 0, true})
}

// append adds an item. The caller holds mu.
func (q *Queue[T]) append(it sized[T]) {
	if q.count == len(q.items) {
		q.grow()
	}
	q.items[(q.first+q.count)%len(q.items)] = it
	q.count++
	q.bytes += it.size
	signal(q.ready)
}

// grow doubles the capacity. The caller holds mu.
func (q *Queue[T]) grow() {
	items := make([]sized[T], max(64, 2*len(q.items)))
	n := copy(items, q.items[q.first:])
	copy(items[n:], q.items[:q.first])
	q.items, q.first = items, 0
}

// remove removes the oldest item, of which there must be one. The caller holds mu.
func (q *Queue[T]) remove() sized[T] {
	it := q.items[q.first]
	q.items[q.first] = sized[T]{} // only the reader holds the item from now on
	q.first = (q.first + 1) % len(q.items)
	q.count--
	q.bytes -= it.size
	return it
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Wait blocks while a queue that blocks is full. It returns the error of ctx, or
// that of Close.
func (q *Queue[T]) Wait(ctx context.Context) error {
	for {
		full, err := q.blocks()
		if err != nil || !full {
			return err
		}
		select {
		case <-q.room:
		case <-q.closed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Full reports whether Wait would block.
func (q *Queue[T]) Full() bool {
	full, err := q.blocks()
	return full && err == nil
}

func (q *Queue[T]) blocks() (full bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.options.Overflow == Block && q.full(0), q.err
}

// Pop blocks until there is an item, ctx is done, or the queue has ended.
func (q *Queue[T]) Pop(ctx context.Context) (T, error) {
	for {
		if item, ok, err := q.TryPop(); ok || err != nil {
			return item, err
		}
		select {
		case <-q.ready:
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		}
	}
}

// TryPop removes and returns the oldest item, if there is one. The error is that
// of Close, or that of End once there are no items.
func (q *Queue[T]) TryPop() (item T, ok bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.err != nil:
		return item, false, q.err
	case len(q.announced.early) > 0:
		item, ok = q.announced.take(q.announced.early)
		return item, ok, nil
	case q.count == 0 && len(q.announced.late) > 0:
		item, ok = q.announced.take(q.announced.late)
		return item, ok, nil
	case q.count > 0:
		item = q.remove().item
		if q.options.Overflow == Block {
			signal(q.room)
		}
		return item, true, nil
	}
	return item, false, q.end
}

// Len returns the number of items that wait.
func (q *Queue[T]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count + q.announced.len()
}

// Dropped returns the number of items that were dropped.
func (q *Queue[T]) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// End makes Pop return err once the items that wait have been returned.
func (q *Queue[T]) End(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.end = err
	signal(q.ready)
}

// Close makes Pop and Wait return err from now on, and releases the items. Only the
// first call has an effect.
func (q *Queue[T]) Close(err error) {
	q.once.Do(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.err = err
		q.items, q.first, q.count, q.bytes, q.announced = nil, 0, 0, 0, announcements[T]{}
		close(q.closed)
		signal(q.ready)
	})
}
