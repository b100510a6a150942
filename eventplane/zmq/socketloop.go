//go:build cgo && !nozmq

package zmq

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/rawzmq"
)

// socketLoop reads from one socket and follows its connections, in a goroutine for
// each of the two. A libzmq socket is not safe for concurrent use: these goroutines
// and all others that use the socket hold mu.
//
// libzmq signals that it has something new for a socket, and the next use of the
// socket consumes the signal. So code that uses it and does not read all that there is
// must call checkNow or sent afterwards.
type socketLoop struct {
	socket   *rawzmq.Socket
	receiver *rawzmq.Receiver
	monitor  *rawzmq.Monitor
	waiter   *rawzmq.Waiter     // for socket
	events   *rawzmq.Waiter     // for monitor
	guard    *floodGuard        // nil unless subscribers connect to the socket
	senders  bool               // there may be callers of sent
	pause    func()             // called without mu before read; nil for none
	read     func() (more bool) // reads a bounded number of messages without waiting
	running  sync.WaitGroup     // the goroutines
	close    func() error

	stopped   atomic.Bool // set with mu held
	delegated atomic.Bool // the next sender is to read

	monitoring sync.Mutex // protects monitor and reported; locked after mu
	reported   []rawzmq.Event

	mu       sync.Mutex
	peers    peers
	checkAt  time.Time     // when to read although no signal may come; zero for never
	deadline time.Time     // of waiter
	awaiting int           // calls of await
	changed  chan struct{} // closed when the calls of await must look again
}

// peers are those of a socket. The socketLoop calls all methods with mu held.
type peers interface {
	// handleEvent applies an event of the monitor.
	handleEvent(e rawzmq.Event, now time.Time)

	// prove reports that the subscription on the connection with that descriptor is
	// in effect.
	prove(fd int)

	// settled reports whether that is so for all connections.
	settled() bool

	// nextDeadline returns when runDue has something to do, or zero for never.
	nextDeadline() time.Time
	runDue(now time.Time)
}

const (
	// checkDelay is how long something new may wait that a sender has consumed the
	// signal of. To look after each message would cost more than to send it.
	checkDelay = 2 * time.Millisecond

	// drainTime limits how long a change of the connections is delayed to receive
	// messages that have arrived, under a load that never ceases.
	drainTime = 100 * time.Millisecond
)

// newSocketLoop returns the loop of a socket, of which it takes ownership, also
// when it fails. monitored are the events for p.
func newSocketLoop(socket *rawzmq.Socket, p peers, monitored rawzmq.EventKind) (*socketLoop, error) {
	l := &socketLoop{socket: socket, peers: p, changed: make(chan struct{})}
	l.close = sync.OnceValue(l.closeAll)
	var err error
	if l.receiver, err = socket.NewReceiver(); err == nil {
		l.waiter, err = socket.NewWaiter()
	}
	if err == nil {
		l.monitor, err = socket.Monitor(monitored)
	}
	if err == nil {
		l.events, err = l.monitor.Socket().NewWaiter()
	}
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// start starts the goroutines. read is called when there may be messages, and again
// as long as it reports that there may be more.
func (l *socketLoop) start(read func() (more bool)) {
	l.read = read
	l.running.Go(func() {
		for !l.stopped.Load() {
			if errors.Is(l.waiter.Wait(l.step), os.ErrDeadlineExceeded) && l.delegate() {
				continue
			}
			l.step()
		}
	})
	l.running.Go(func() {
		for !l.stopped.Load() {
			_ = l.events.Wait(l.follow) // it fails only when it is closed
		}
	})
}

// delegate leaves it to the next sender to read, so that senders do not wait for the loop
// every checkDelay. It reports false if none has done so since it was called last.
func (l *socketLoop) delegate() bool {
	if !l.senders || l.delegated.Swap(true) {
		return false
	}
	return l.waiter.SetDeadline(time.Now().Add(checkDelay)) == nil
}

// step reads once, and reports whether it must be called again without a signal.
func (l *socketLoop) step() (again bool) {
	if l.pause != nil {
		l.pause()
	}
	if l.guard != nil {
		l.guard.begin()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopped.Load() || l.work()
}

// sent is called with mu held after a message has been sent.
func (l *socketLoop) sent() {
	if l.delegated.Load() {
		l.work()
	}
	if l.checkAt.IsZero() {
		l.checkAt = time.Now().Add(checkDelay)
		l.schedule()
	}
}

// work is step, with mu held.
func (l *socketLoop) work() (again bool) {
	l.delegated.Store(false)
	l.checkAt = time.Time{}
	again = l.read()
	if !again && l.guard != nil {
		l.guard.end()
	}
	if due := l.peers.nextDeadline(); !due.IsZero() {
		if now := time.Now(); !now.Before(due) {
			l.drain()
			l.peers.runDue(now)
			l.broadcast()
		}
	}
	if again {
		l.checkAt = time.Now()
	}
	l.schedule()
	return again
}

// follow reads the events of the monitor, and reports whether the loop has ended.
func (l *socketLoop) follow() bool {
	l.collect()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped.Load() {
		return true
	}
	l.readMonitor()
	l.schedule()
	return false
}

// collect reads the events of the monitor. mu may be held by another goroutine, which
// libzmq does not return to during a flood.
func (l *socketLoop) collect() {
	l.monitoring.Lock()
	defer l.monitoring.Unlock()
	if l.monitor == nil {
		return
	}
	l.monitor.Each(func(e rawzmq.Event) {
		l.reported = append(l.reported, e)
		if l.guard != nil {
			l.guard.handleEvent(e)
		}
	})
}

// readMonitor applies the events of the monitor. Like all methods below, up to
// await, it is called with mu held.
func (l *socketLoop) readMonitor() {
	l.collect()
	l.monitoring.Lock()
	events := l.reported
	l.reported = nil
	l.monitoring.Unlock()
	for _, e := range events {
		l.peers.handleEvent(e, time.Now())
		l.broadcast()
	}
}

// prove passes on that a subscription is in effect, after all that libzmq has
// reported about the connection before.
func (l *socketLoop) prove(fds ...int) {
	if len(fds) == 0 {
		return
	}
	l.readMonitor()
	for _, fd := range fds {
		l.peers.prove(fd)
	}
	l.broadcast()
}

// drain reads what has arrived. libzmq discards what waits on a connection that is
// closed. mu is not held during pauses.
func (l *socketLoop) drain() {
	for end := time.Now().Add(drainTime); l.read() && time.Now().Before(end) && !l.stopped.Load(); {
		if l.pause != nil {
			l.mu.Unlock()
			l.pause()
			l.mu.Lock()
		}
	}
}

// schedule sets the deadline of the waiter.
func (l *socketLoop) schedule() {
	next := l.peers.nextDeadline()
	if !l.checkAt.IsZero() && (next.IsZero() || l.checkAt.Before(next)) {
		next = l.checkAt
	}
	if !next.Equal(l.deadline) {
		l.deadline = next
		_ = l.waiter.SetDeadline(next) // it fails only when it is closed
	}
}

// checkNow makes the loop read.
func (l *socketLoop) checkNow() {
	l.checkAt = time.Now()
	l.schedule()
}

// broadcast makes the calls of await look again.
func (l *socketLoop) broadcast() {
	if l.awaiting > 0 {
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// use runs f, which uses the socket, with mu held.
func (l *socketLoop) use(f func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped.Load() {
		return driver.ErrClosed
	}
	err := f()
	l.broadcast()
	l.checkNow()
	return err
}

// connect connects to an endpoint. It does not hold mu.
func (l *socketLoop) connect(c *connections, endpoint string, proves bool) error {
	ipv6 := needsIPv6(endpoint, net.DefaultResolver.LookupNetIP)
	if err := l.use(func() error { return c.connect(endpoint, ipv6, proves) }); err != nil {
		return fmt.Errorf("zmq: connect to %q: %w", endpoint, err)
	}
	return nil
}

// await blocks until done returns true. It calls it with mu held.
func (l *socketLoop) await(ctx context.Context, done func() bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.awaiting++
	defer func() { l.awaiting-- }()
	for !l.stopped.Load() {
		if done() {
			return nil
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		l.mu.Lock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return driver.ErrClosed
}

// stop ends the goroutines and the calls of await, and waits for the goroutines.
func (l *socketLoop) stop() {
	l.mu.Lock()
	l.stopped.Store(true)
	l.broadcast()
	_, _ = l.waiter.SetDeadline(time.Now()), l.events.SetDeadline(time.Now())
	l.mu.Unlock()
	l.running.Wait()
}

// closeAll also closes what newSocketLoop has opened before it failed.
func (l *socketLoop) closeAll() error {
	if l.events != nil {
		l.stop()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, w := range []*rawzmq.Waiter{l.waiter, l.events} {
		if w != nil {
			errs = append(errs, w.Close())
		}
	}
	if l.guard != nil {
		l.guard.end()
	}
	l.monitoring.Lock()
	defer l.monitoring.Unlock()
	if l.monitor != nil {
		errs = append(errs, l.monitor.Close())
		l.monitor = nil
	}
	if l.receiver != nil {
		l.receiver.Close()
	}
	return errors.Join(append(errs, l.socket.Close())...)
}
