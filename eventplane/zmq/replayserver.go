//go:build cgo && !nozmq

package zmq

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/rawzmq"
)

const (
	// Of a ROUTER: the requests that wait on a connection, and the messages of
	// answers. The mark must stay the same while there are connections: the reading
	// side of a queue acknowledges only every half of its mark, so that the queue
	// would count as full for ever under a much lower one.
	requestHWM = 16
	replayHWM  = 2048

	// Large events are bounded by their bytes: those that wait for one client, and
	// for all. They are exceeded by a batch at most.
	maxReplayQueue  = 8 << 20
	maxReplayQueues = 64 << 20

	// maxRequests is the number of requests of one client that are answered in turn.
	// Two are enough to keep a connection busy.
	maxRequests = 4

	// A client that does not read is tried again after a pause, which doubles up to
	// maxReplayPause, and given up after replayStall. The kernel ends its connection
	// sooner.
	minReplayPause = time.Millisecond
	maxReplayPause = 100 * time.Millisecond
	replayStall    = 5 * time.Second
)

var _ driver.ReplayServer = (*Publisher)(nil)

// replayServer answers requests for the events of one publisher over a ROUTER, in a
// goroutine of its own: docs/protocol.md has the frames.
type replayServer struct {
	publisherID uint64
	history     driver.History
	log         *slog.Logger
	endpoint    string
	socket      *rawzmq.Socket // of the goroutine
	receiver    *rawzmq.Receiver
	waiter      *rawzmq.Waiter
	running     sync.WaitGroup

	mu      sync.Mutex
	stopped bool

	// Of the goroutine.
	clients []*replayPeer          // those with requests, or with events that wait for them, in turn
	byID    map[string]*replayPeer // the same
	queued  int                    // bytes of large events that wait for clients
	refused uint64
	events  []driver.Message // reused
	batch   rawzmq.Batch     // reused
	head    []byte           // reused: id, sequence and header of an event
}

// replayPeer is a client whose requests have not been answered completely, or which
// has not read the answers.
type replayPeer struct {
	id       string
	queue    rawzmq.Queue
	requests []replayAnswer
	pause    time.Duration // before the next attempt; 0 if it reads
	retryAt  time.Time
	stalled  time.Time // when it began not to read
}

// replayAnswer is the answer to a request of this module, or of a tool for engines.
type replayAnswer struct {
	driver.ReplayAnswer
	engine bool
}

// ServeReplay implements driver.ReplayServer. The address has the host that
// DirectPublisher was given, or else Options.ReplayHost, and a port that the system
// chooses.
func (p *Publisher) ServeReplay(publisherID uint64, h driver.History) (address string, err error) {
	host := p.zc.opts.ReplayHost
	if p.endpoint != "" {
		if host, _, err = net.SplitHostPort(strings.TrimPrefix(p.endpoint, "tcp://")); err != nil {
			return "", fmt.Errorf("zmq: serve replay: endpoint %q: %w", p.endpoint, err)
		}
	}
	r := &replayServer{publisherID: publisherID, history: h, log: p.zc.opts.Logger, byID: map[string]*replayPeer{}}
	if err := r.open(p.zc, host); err != nil {
		return "", errors.Join(fmt.Errorf("zmq: serve replay on %q: %w", host, err), r.close())
	}
	p.loop.mu.Lock()
	defer p.loop.mu.Unlock()
	if p.loop.stopped.Load() {
		return "", errors.Join(driver.ErrClosed, r.close())
	}
	p.replay = r
	r.running.Go(r.run)
	return r.endpoint, nil
}

// closeReplay is called after the loop has been closed.
func (p *Publisher) closeReplay() error {
	p.loop.mu.Lock()
	r := p.replay
	p.replay = nil
	p.loop.mu.Unlock()
	return r.close()
}

// open opens what close closes.
func (r *replayServer) open(c *Context, host string) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.socket, err = c.socket(rawzmq.ROUTER, rawzmq.Options{ReceiveHWM: requestHWM, MaxFrame: rawzmq.MaxSubscription}); err != nil {
		return err
	}
	if err := r.socket.Set(rawzmq.SendHWM, replayHWM); err != nil {
		return err
	}
	if r.endpoint, err = listen(r.socket, host); err != nil {
		return err
	}
	if r.receiver, err = r.socket.NewReceiver(); err != nil {
		return err
	}
	r.waiter, err = r.socket.NewWaiter()
	return err
}

// close ends the goroutine. libzmq still sends for a second.
func (r *replayServer) close() error {
	if r == nil {
		return nil
	}
	var errs []error
	if r.waiter != nil {
		r.mu.Lock()
		r.stopped = true
		errs = append(errs, r.waiter.SetDeadline(time.Now()))
		r.mu.Unlock()
		r.running.Wait()
		errs = append(errs, r.waiter.Close())
	}
	if r.receiver != nil {
		r.receiver.Close()
	}
	if r.socket != nil {
		errs = append(errs, r.socket.Close())
	}
	for _, c := range r.clients {
		c.queue.Release()
	}
	if r.refused > 0 {
		r.log.Debug("zmq: requests for replay were refused", "publisher_id", r.publisherID, "count", r.refused)
	}
	return errors.Join(errs...)
}

func (r *replayServer) run() {
	for !r.ended() {
		// It fails only when it is closed. After a deadline it has not called step.
		_ = r.waiter.Wait(r.step)
		r.step()
	}
}

func (r *replayServer) ended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopped
}

// step sends a batch to each client that reads, and then reads requests, since
// sending may consume the signal that there are some. It reports whether it must be
// called again without a signal.
func (r *replayServer) step() (again bool) {
	now := time.Now()
	r.queued = 0
	for _, c := range r.clients {
		r.queued += c.queue.Bytes()
	}
	r.clients = slices.DeleteFunc(r.clients, func(c *replayPeer) bool {
		if !c.retryAt.After(now) && len(c.requests) > 0 && !r.serve(c, now) {
			c.requests, c.stalled = nil, time.Time{}
		}
		if len(c.requests) > 0 || c.queue.Bytes() > 0 {
			return false
		}
		c.queue.Release()
		delete(r.byID, c.id)
		return true
	})
	again = r.receiver.Each(r.accept)
	var next time.Time
	for _, c := range r.clients {
		if len(c.requests) == 0 {
			continue
		}
		again = again || !c.retryAt.After(now)
		if next.IsZero() || c.retryAt.Before(next) {
			next = c.retryAt
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !again && !r.stopped {
		_ = r.waiter.SetDeadline(next) // it fails only when it is closed
	}
	return again || r.stopped
}

// accept reads a request. Its frames are the client, an empty one, the first sequence
// and, unless a tool for engines sent it, the last one.
func (r *replayServer) accept(m *rawzmq.Message) {
	engine := m.Count == 3
	ok := (engine || m.Count == 4) && len(m.Frames[1]) == 0 && len(m.Frames[2]) == idSize && (engine || len(m.Frames[3]) == idSize)
	if !ok {
		r.refuse("malformed")
		return
	}
	first, last, limit := binary.BigEndian.Uint64(m.Frames[2]), uint64(math.MaxUint64), uint64(math.MaxUint64)
	if !engine {
		last, limit = binary.BigEndian.Uint64(m.Frames[3]), driver.MaxReplay
	}
	c := r.byID[string(m.Frames[0])]
	switch {
	case first > last:
		r.refuse("last sequence before the first")
		return
	case c == nil:
		queue, err := rawzmq.NewQueue()
		if err != nil {
			r.refuse(err.Error())
			return
		}
		c = &replayPeer{id: string(m.Frames[0]), queue: queue}
		r.byID[c.id] = c
		r.clients = append(r.clients, c)
	case len(c.requests) == maxRequests:
		r.refuse("too many requests of one client")
		return
	}
	c.requests = append(c.requests, replayAnswer{driver.NewReplayAnswer(first, last, limit), engine})
}

func (r *replayServer) refuse(reason string) {
	if r.refused++; r.refused == 1 {
		r.log.Warn("zmq: request for replay refused, ignoring it and others", "publisher_id", r.publisherID, "reason", reason)
	}
}

// serve sends the next batch to a client, and reports whether it has more requests.
func (r *replayServer) serve(c *replayPeer, now time.Time) (more bool) {
	if c.queue.Bytes() >= maxReplayQueue || r.queued >= maxReplayQueues {
		return c.wait(now)
	}
	a := &c.requests[0]
	most := math.MaxInt
	if c.pause > 0 {
		most = 1 // it may still not read
	}
	r.events = a.Batch(r.history, r.events[:0], most)
	defer clear(r.events) // they may be large
	r.encode(a)
	sent, err := r.socket.SendRouted([]byte(c.id), &r.batch, c.queue)
	r.queued += r.batch.Size()
	if sent > 0 {
		c.pause, c.retryAt, c.stalled = 0, time.Time{}, time.Time{}
		if len(r.events) == 0 {
			c.requests = slices.Delete(c.requests, 0, 1)
			return len(c.requests) > 0
		}
		a.Advance(r.events[:sent])
	}
	switch {
	case err == nil:
		return true
	case !errors.Is(err, syscall.EAGAIN): // EHOSTUNREACH, or the process is short of memory
		return false
	}
	return c.wait(now)
}

// wait makes the next attempt later, and reports whether there is one: not after
// replayStall.
func (c *replayPeer) wait(now time.Time) bool {
	if c.stalled.IsZero() {
		c.stalled = now
	}
	c.pause = min(max(2*c.pause, minReplayPause), maxReplayPause)
	c.retryAt = now.Add(c.pause)
	return now.Sub(c.stalled) <= replayStall
}

// encode encodes the events or, if there are none, the end of an answer: a sequence that
// no event has and, unless a tool for engines sent the request, the request and the
// number of its events instead of a body.
func (r *replayServer) encode(a *replayAnswer) {
	frames := 4
	if a.engine {
		frames = 3
	}
	r.batch.Reset(frames)
	for i := range r.events {
		r.encodeMessage(a.engine, r.events[i].Sequence, r.events[i].Body)
	}
	if len(r.events) > 0 {
		return
	}
	var end []byte
	if !a.engine {
		end = binary.BigEndian.AppendUint64(nil, a.First)
		end = binary.BigEndian.AppendUint64(end, a.Last)
		end = binary.BigEndian.AppendUint64(end, a.Sent)
	}
	r.encodeMessage(a.engine, driver.NoSequence, end)
}

func (r *replayServer) encodeMessage(engine bool, sequence uint64, body []byte) {
	r.head = binary.BigEndian.AppendUint64(r.head[:0], r.publisherID)
	r.head = binary.BigEndian.AppendUint64(r.head, sequence)
	r.head = appendHeader(r.head, len(body))
	r.batch.Append()
	if engine {
		r.batch.Append(r.head[idSize : 2*idSize])
		r.batch.Append(body)
		return
	}
	r.batch.Append(r.head[:idSize])
	r.batch.Append(r.head[idSize : 2*idSize])
	r.batch.Append(r.head[2*idSize:], body)
}
