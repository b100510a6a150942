//go:build cgo && !nozmq

package zmq

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/rawzmq"
)

// socketLoop is the goroutine that manages the connections of one socket and
// receives from it: libzmq sockets are not safe for concurrent use. Other
// goroutines queue commands, and wake it with a message on an in-process pair.
type socketLoop struct {
	socket      *rawzmq.Socket
	shared      bool               // others use the socket too, under lock: an XPUB
	lock        sync.Locker        // held while the connections of socket change
	receive     func() (more bool) // receives a batch without waiting
	connections *connections       // of the goroutine
	poller      *rawzmq.Poller     // of the goroutine: wakeups, monitor, socket
	wakeups     *rawzmq.Socket     // the goroutine's end of the pair
	monitor     *rawzmq.Monitor    // reports the connections of socket
	done        chan struct{}      // closed when the goroutine has ended

	mu       sync.Mutex
	waker    *rawzmq.Socket // the other end of the pair
	commands []command
	stopped  bool
}

// command runs in the goroutine of a socketLoop, which sends its error to reply.
type command struct {
	run   func() error
	reply chan error
}

// drainTime limits how long a change of the connections is delayed to receive
// messages that have arrived, under a load that never ceases.
const drainTime = 100 * time.Millisecond

const monitored = rawzmq.HandshakeSucceeded | rawzmq.HandshakeFailedProtocol | rawzmq.HandshakeFailedAuth |
	rawzmq.Disconnected | rawzmq.ConnectRetried

// newSocketLoop returns the loop of a SUB, or that of an XPUB that others use
// under lock. start starts its goroutine, which stop ends. The caller closes
// the socket.
func newSocketLoop(c *Context, socket *rawzmq.Socket, lock sync.Locker) (*socketLoop, error) {
	l := &socketLoop{
		socket: socket, shared: lock != nil, lock: lock,
		connections: newConnections(socket, c.opts.Logger),
		done:        make(chan struct{}),
	}
	if !l.shared {
		l.lock = new(sync.Mutex)
	}
	var err error
	if l.wakeups, l.waker, err = c.zctx.Pair(); err != nil {
		return nil, err
	}
	if l.monitor, err = socket.Monitor(monitored); err != nil {
		return nil, errors.Join(err, l.wakeups.Close(), l.waker.Close())
	}
	if !l.shared {
		l.poller = rawzmq.NewPoller(l.wakeups, l.monitor.Socket(), socket)
		return l, nil
	}
	l.poller = rawzmq.NewPoller(l.wakeups, l.monitor.Socket())
	if err := l.poller.AddShared(socket); err != nil {
		l.closeSockets()
		return nil, err
	}
	return l, nil
}

// start starts the goroutine, which calls receive when there may be messages,
// and again as long as it reports that there may be more.
func (l *socketLoop) start(receive func() (more bool)) {
	l.receive = receive
	go l.run()
}

func (l *socketLoop) run() {
	defer close(l.done)
	defer l.closeSockets()
	for more := false; ; {
		timeout := l.connections.pollTimeout(time.Now())
		if more {
			timeout = 0
		}
		// It fails only without memory. Commands, stop among them, still run.
		_ = l.poller.Wait(timeout)
		if more || l.poller.Readable(2) {
			more = l.receive()
		}
		if l.poller.Readable(1) {
			l.readMonitor()
		}
		if l.runCommands() {
			return
		}
		if l.connections.isDue(time.Now()) {
			_ = l.changeConnections(func() error { l.connections.runDue(time.Now()); return nil })
		}
	}
}

// closeSockets closes the sockets that the loop opened.
func (l *socketLoop) closeSockets() {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.monitor.Close()
	_ = l.wakeups.Close()
	_ = l.waker.Close()
}

// changeConnections runs f, which changes the connections of the socket.
// Messages that have arrived are received before, since libzmq discards those
// that wait on a connection when it ends.
func (l *socketLoop) changeConnections(f func() error) error {
	if !l.shared {
		for end := time.Now().Add(drainTime); l.receive() && time.Now().Before(end); {
		}
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	return f()
}

func (l *socketLoop) readMonitor() {
	l.monitor.Each(func(e rawzmq.Event) { l.connections.handleEvent(e, time.Now()) })
}

// runCommands reports whether the loop is to stop.
func (l *socketLoop) runCommands() (stop bool) {
	l.wakeups.Discard()
	l.mu.Lock()
	commands := l.commands
	l.commands = nil
	stop = l.stopped
	l.mu.Unlock()
	for _, c := range commands {
		c.reply <- c.run()
	}
	return stop
}

// do runs f in the goroutine of the loop.
func (l *socketLoop) do(f func() error) error {
	c := command{run: f, reply: make(chan error, 1)}
	l.mu.Lock()
	if l.stopped {
		l.mu.Unlock()
		return driver.ErrClosed
	}
	l.commands = append(l.commands, c)
	l.wakeUp()
	l.mu.Unlock()
	return <-c.reply
}

// wakeUp ends the wait of the goroutine. The caller holds l.mu.
func (l *socketLoop) wakeUp() { _ = l.waker.SendFrame(nil, false) }

func (l *socketLoop) connect(endpoint string) error {
	ipv6 := needsIPv6(endpoint, net.DefaultResolver.LookupNetIP)
	err := l.do(func() error {
		l.lock.Lock()
		defer l.lock.Unlock()
		return l.connections.connect(endpoint, ipv6)
	})
	if err != nil {
		return fmt.Errorf("zmq: connect to %q: %w", endpoint, err)
	}
	return nil
}

func (l *socketLoop) disconnect(endpoint string) error {
	err := l.do(func() error {
		if !l.shared {
			l.connections.disconnectLater(endpoint, time.Now())
			return nil
		}
		return l.changeConnections(func() error { return l.connections.disconnect(endpoint) })
	})
	if err != nil {
		return fmt.Errorf("zmq: disconnect from %q: %w", endpoint, err)
	}
	return nil
}

// ready blocks until all handshakes are done.
func (l *socketLoop) ready(ctx context.Context) error {
	var ready <-chan struct{}
	if err := l.do(func() error { ready = l.connections.ready; return nil }); err != nil {
		return err
	}
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.done:
		return driver.ErrClosed
	}
}

// stop ends the goroutine and waits for it. It is idempotent and safe for
// concurrent use.
func (l *socketLoop) stop() {
	l.mu.Lock()
	if !l.stopped {
		l.stopped = true
		l.wakeUp()
	}
	l.mu.Unlock()
	<-l.done
}
