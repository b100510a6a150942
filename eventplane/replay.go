package eventplane

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/wait"
)

// A request for a slice that makes no progress for replayTimeout is repeated for
// the rest, replayAttempts times in succession, with pauses. At most maxReplays are
// in progress at a time, each for tryTimeout, and at most maxRepeated of them after a
// failure; these wait for repeatTimeout. The events delivered wait for Next within the
// bounds of replayQueue.
const (
	replayTimeout  = time.Second
	replayAttempts = 5
	replayMinPause = 50 * time.Millisecond
	replayMaxPause = 2 * time.Second
	maxReplays     = 8
	maxRepeated    = 4
	tryTimeout     = 5 * replayTimeout
	repeatTimeout  = 10 * replayTimeout
)

// A publisher that has not answered a request for replayPatience is treated as one
// that does not answer where events would be discarded for it otherwise, or where the
// first request for another slice waits.
const replayPatience = 100 * time.Millisecond

var replayQueue = driver.QueueOptions{Size: 2 * driver.MaxReplay, Bytes: maxHeldBytesOf, Overflow: driver.Block}

// Causes of requests that have been canceled.
var (
	errNoProgress = errors.New("no progress")
	errRestarted  = errors.New("the publisher was restarted")
	errYielded    = errors.New("no answer while others wait")
)

// replayClient requests slices from publishers, each in a goroutine, and queues the
// events for Next.
type replayClient struct {
	source  driver.Replayer
	topic   string
	address func(publisher uint64) (address string, left bool)
	wake    func() // called when something was queued

	results *driver.Queue[replayResult]
	tokens  chan struct{} // one for each request in progress
	repeats chan struct{} // one for each of them that is a repeated one
	yields  chan struct{} // from a request that is not answered to a first one that waits

	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex // of closed and of Add
	closed  bool
	running sync.WaitGroup
}

// replayResult is an event of a slice, or its end.
type replayResult struct {
	slice  *slice
	event  Event
	size   int
	end    bool
	failed bool
}

func newReplayClient(source driver.Replayer, topic string, address func(uint64) (string, bool), wake func()) *replayClient {
	c := &replayClient{
		source: source, topic: topic, address: address, wake: wake,
		results: driver.NewQueue[replayResult](replayQueue), tokens: make(chan struct{}, maxReplays),
		repeats: make(chan struct{}, maxRepeated), yields: make(chan struct{}),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// start begins to request a slice. It does not block.
func (c *replayClient) start(sl *slice) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.running.Go(func() {
		defer context.AfterFunc(c.ctx, sl.cancel)()
		err := c.request(sl)
		if sl.context.Err() == nil {
			c.results.Push(replayResult{slice: sl, end: true, failed: err != nil}, 0)
			c.wake()
		}
	})
}

// close cancels all requests and waits for them. It is idempotent.
func (c *replayClient) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.results.Close(ErrClosed)
	c.running.Wait()
}

// request requests a slice until it is complete, or repeating it is in vain. A
// publisher of another library does not replay; one of this library may have come
// so recently that a NATS cluster does not have its subscription everywhere yet.
func (c *replayClient) request(sl *slice) error {
	r := &replayRequest{client: c, slice: sl, next: sl.first, ours: sl.announced}
	if sl.reply.Load() == unreplied {
		r.repeated, r.limit = true, time.Now().Add(repeatTimeout)
	}
	if sl.overlap {
		r.next--
	}
	start := r.next
	pause := wait.Backoff{Min: replayMinPause, Max: replayMaxPause}
	for attempt := 1; ; attempt++ {
		before := r.next
		left, err := r.try()
		switch {
		case err == nil || sl.context.Err() != nil:
			return err
		case left, errors.Is(err, errRestarted), errors.Is(err, driver.ErrNoReplay) && !sl.answered && r.next == start && (!r.ours || attempt > 1):
			if r.next == before {
				sl.reply.Store(unreplied)
			}
			return err
		case r.next != before:
			attempt = 1
			pause.Reset()
		case errors.Is(err, errYielded):
			attempt--
			fallthrough
		default:
			sl.reply.Store(unreplied)
		}
		if r.next != before || !r.repeated {
			r.limit = time.Now().Add(repeatTimeout)
		}
		r.repeated = true
		if attempt == replayAttempts || !time.Now().Before(r.limit) {
			return err
		}
		if err := wait.Sleep(sl.context, pause.Next()); err != nil {
			return err
		}
	}
}

// replayRequest is the progress of a slice.
type replayRequest struct {
	client *replayClient
	slice  *slice
	next   uint64 // first sequence to request
	last   uint64 // time of publishing of the event before next, or 0 if none was delivered
	ours   bool   // the publisher announces what it has sent, or where it replays

	repeated bool      // a try has failed
	limit    time.Time // of the waits of repeated ones
}

// acquire waits for a token. First tries take those of others that are not answered.
func (r *replayRequest) acquire() (release func(), err error) {
	c, ctx := r.client, r.slice.context
	release = func() { <-c.tokens }
	yields := c.yields
	if r.repeated {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, r.limit)
		defer cancel()
		select {
		case c.repeats <- struct{}{}:
			release = func() { <-c.tokens; <-c.repeats }
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		yields = nil
	}
	for {
		select {
		case c.tokens <- struct{}{}:
			return release, nil
		case <-yields: // its token may go to another
		case <-ctx.Done():
			if r.repeated {
				<-c.repeats
			}
			return nil, ctx.Err()
		}
	}
}

// watch handles a try that is not answered for replayPatience.
func (r *replayRequest) watch(unanswered context.Context, giveUp context.CancelCauseFunc) {
	if wait.Sleep(unanswered, replayPatience) != nil {
		return
	}
	r.slice.reply.CompareAndSwap(awaited, unreplied)
	select {
	case r.client.yields <- struct{}{}:
		giveUp(errYielded)
	case <-unanswered.Done():
	}
}

// try requests the rest of the slice once. It reports whether the publisher is no
// longer registered.
func (r *replayRequest) try() (left bool, err error) {
	sl, c := r.slice, r.client
	release, err := r.acquire()
	if err != nil {
		return false, err
	}
	defer release()
	ctx, cancel := context.WithCancelCause(sl.context)
	defer cancel(nil)
	stalled := time.AfterFunc(replayTimeout, func() { cancel(errNoProgress) })
	defer stalled.Stop()
	defer time.AfterFunc(tryTimeout, func() { cancel(errNoProgress) }).Stop()
	unanswered, answered := context.WithCancel(ctx)
	defer answered()
	if !r.repeated {
		c.running.Go(func() { r.watch(unanswered, cancel) })
	}
	address, left := c.address(sl.peer.id)
	r.ours = r.ours || address != ""
	request := driver.ReplayRequest{PublisherID: sl.peer.id, Address: address, First: r.next, Last: sl.last}
	if r.last > 0 {
		request.First--
	}
	err = c.source.Replay(ctx, request, func(m *driver.Message) {
		answered()
		stalled.Stop() // while the reader is busy
		if c.results.Wait(ctx) == nil && ctx.Err() == nil {
			if !r.deliver(m) {
				cancel(errRestarted)
			}
		}
		stalled.Reset(replayTimeout)
	})
	if cause := context.Cause(ctx); errors.Is(cause, errRestarted) || err != nil && errors.Is(cause, errYielded) {
		err = cause
	}
	return left, err
}

// deliver queues an event of the slice. Messages that are none are ignored, so that
// the event counts as no longer kept. It reports false if the publisher was restarted
// since the last one.
func (r *replayRequest) deliver(m *driver.Message) bool {
	sl := r.slice
	env := codec.Envelope{Topic: r.client.topic}
	if env.Decode(m.Body) != nil || env.Topic != r.client.topic || env.PublisherID != sl.peer.id || env.Sequence > sl.last {
		return true
	}
	if env.Sequence < r.next {
		return r.last == 0 || env.Sequence != r.next-1 || env.PublishedAt == r.last
	}
	r.last = env.PublishedAt
	r.next = env.Sequence + 1
	sl.reply.Store(replied)
	r.client.results.Push(replayResult{slice: sl, event: Event{Envelope: env}, size: len(m.Body)}, len(m.Body))
	r.client.wake()
	return true
}
