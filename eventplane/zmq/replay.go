//go:build cgo && !nozmq

package zmq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
)

const (
	// maxDealers is the number of publishers that a subscriber requests events from
	// at once. Further calls of Replay wait.
	maxDealers = 8

	// replayIdle ends a replay without progress, and closes a DEALER without calls.
	replayIdle = time.Second

	// maxReplayBytes bounds what has arrived for a call and has not been delivered.
	maxReplayBytes = 32 << 20
)

var _ driver.Replayer = (*Subscriber)(nil)

// replayClient has the DEALERs over which a subscriber requests events.
type replayClient struct {
	zc      *Context
	running sync.WaitGroup // the goroutines of the dealers

	mu      sync.Mutex
	closed  bool
	dealers map[string]*dealer // by address
	waiting int                // calls of Replay that wait for a dealer
	changed chan struct{}      // closed when one of those has to look again
}

func newReplayClient(c *Context) *replayClient {
	return &replayClient{zc: c, dealers: map[string]*dealer{}, changed: make(chan struct{})}
}

// replayCall is a call of Replay.
type replayCall struct {
	request driver.ReplayRequest
	queue   *driver.Queue[item] // ends with io.EOF, or the error

	abandoned bool // under the lock of the client: Replay has returned

	// Of the goroutine of the dealer.
	next   uint64 // the lowest sequence that may follow
	count  uint64 // events received
	failed bool   // the rest of the answer is discarded
}

// Replay implements driver.Replayer. Calls to one publisher share a connection, and
// are answered in turn. Requests to eight publishers are sent at once. An error for a
// publisher that does not answer comes after a second.
func (s *Subscriber) Replay(ctx context.Context, r driver.ReplayRequest, deliver func(*driver.Message)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.Address == "" {
		return driver.ErrNoReplay
	}
	call := &replayCall{
		request: r, next: r.First,
		queue: driver.NewQueue[item](driver.QueueOptions{Size: driver.MaxReplay, Bytes: maxReplayBytes, Overflow: driver.DropNewest}),
	}
	d, err := s.replays.start(ctx, call)
	if err != nil {
		return err
	}
	defer d.abandon(call)
	for ctx.Err() == nil {
		it, err := call.queue.Pop(ctx)
		switch {
		case err == nil:
			deliver(&driver.Message{
				Subject: s.subject, PublisherID: it.publisherID, Sequence: it.sequence, HasIdentity: true, Body: it.body,
			})
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil, errors.Is(err, driver.ErrNoReplay), errors.Is(err, driver.ErrClosed):
			return err
		default:
			return fmt.Errorf("zmq: replay of publisher %d from %q: %w", r.PublisherID, r.Address, err)
		}
	}
	return ctx.Err()
}

// start passes the call to the dealer of its address. It blocks while there are too
// many others.
func (c *replayClient) start(ctx context.Context, call *replayCall) (*dealer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting++
	defer func() { c.waiting-- }()
	for !c.closed {
		if d := c.dealer(call.request.Address); d != nil {
			d.incoming = append(d.incoming, call)
			d.pending++
			d.wake()
			return d, nil
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		c.mu.Lock()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return nil, driver.ErrClosed
}

// dealer returns the dealer of an address, which it opens if there is none. It
// returns nil if it is ending, or there are too many, of which the idle ones then
// end. The caller holds mu.
func (c *replayClient) dealer(address string) *dealer {
	d := c.dealers[address]
	switch {
	case d != nil && !d.ending:
		return d
	case d != nil:
		return nil
	case len(c.dealers) < maxDealers:
		d = &dealer{client: c, address: address}
		c.dealers[address] = d
		c.running.Go(d.run)
		return d
	}
	for _, d := range c.dealers {
		if d.pending == 0 {
			d.end()
		}
	}
	return nil
}

// broadcast makes the calls that wait look again. The caller holds mu.
func (c *replayClient) broadcast() {
	if c.waiting > 0 {
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// close ends all calls and waits for the goroutines.
func (c *replayClient) close() {
	c.mu.Lock()
	c.closed = true
	c.broadcast()
	for _, d := range c.dealers {
		d.end()
	}
	c.mu.Unlock()
	c.running.Wait()
}
