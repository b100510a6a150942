//go:build cgo && !nozmq

package zmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// owner is the goroutine that looks after the connections of one socket, and
// receives from it if it is a SUB: libzmq sockets are not safe for concurrent
// use. Others hand it commands, and wake it by a message on an inproc pair.
type owner struct {
	socket  *zmq.Socket
	guard   sync.Locker        // held while the connections of socket are changed
	receive func() (more bool) // nil for an XPUB
	links   *links             // the goroutine's own
	control *zmq.Socket        // the goroutine's end of the pair
	monitor *zmq.Socket        // what libzmq tells of the connections of socket
	done    chan struct{}      // closed when the goroutine has ended

	mu       sync.Mutex
	wake     *zmq.Socket // the others' end of the pair
	commands []command
	stopped  bool
}

// command runs in the goroutine of an owner. Its error goes to the reply.
type command struct {
	run   func() error
	reply chan error
}

// drainTime bounds how long a change of the connections waits for what has
// arrived to be received, under a load that never lets up.
const drainTime = 100 * time.Millisecond

const monitored = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL |
	zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED

// newOwner starts the goroutine; stop ends it. The socket stays the caller's to close.
func newOwner(c *Context, socket *zmq.Socket, guard sync.Locker, receive func() bool) (*owner, error) {
	o := &owner{socket: socket, guard: guard, receive: receive, done: make(chan struct{})}
	o.links = newLinks(socket, c.opts.Logger)
	wakeAddr, monitorAddr := c.inproc(), c.inproc()
	var err1, err2, err3 error
	o.control, err1 = c.pair(func(s *zmq.Socket) error { return s.Bind(wakeAddr) })
	o.wake, err2 = c.pair(func(s *zmq.Socket) error { return s.Connect(wakeAddr) })
	if err3 = socket.Monitor(monitorAddr, monitored); err3 == nil {
		o.monitor, err3 = c.pair(func(s *zmq.Socket) error { return s.Connect(monitorAddr) })
	}
	if err := errors.Join(err1, err2, err3); err != nil {
		o.closeSockets()
		return nil, err
	}
	go o.run()
	return o, nil
}

// closeSockets closes those that the owner opened. The monitor is stopped
// first, else a thread of libzmq could wait for its reader for ever.
func (o *owner) closeSockets() {
	o.guard.Lock()
	defer o.guard.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	_ = o.socket.Monitor("", 0)
	for _, s := range []*zmq.Socket{o.monitor, o.control, o.wake} {
		if s != nil {
			_ = s.Close()
		}
	}
}

func (o *owner) run() {
	defer close(o.done)
	defer o.closeSockets()
	poller := zmq.NewPoller()
	poller.Add(o.control, zmq.POLLIN)
	poller.Add(o.monitor, zmq.POLLIN)
	if o.receive != nil {
		poller.Add(o.socket, zmq.POLLIN)
	}
	for {
		ready, err := poller.PollAll(o.links.wait(time.Now()))
		if err != nil {
			ready = nil // only without memory; the commands may still say stop
		}
		if len(ready) > 2 && ready[2].Events != 0 {
			o.receive()
		}
		if len(ready) > 1 && ready[1].Events != 0 {
			o.readMonitor()
		}
		if o.runCommands() {
			return
		}
		if o.links.due(time.Now()) {
			_ = o.change(func() error { o.links.tend(time.Now()); return nil })
		}
	}
}

// change runs f, which changes the connections of the socket. What has arrived
// is taken before, since libzmq throws away what waits on a connection that is
// ended.
func (o *owner) change(f func() error) error {
	if o.receive != nil {
		for end := time.Now().Add(drainTime); o.receive() && time.Now().Before(end); {
		}
	}
	o.guard.Lock()
	defer o.guard.Unlock()
	return f()
}

func (o *owner) readMonitor() {
	for {
		event, addr, _, err := o.monitor.RecvEvent(zmq.DONTWAIT)
		if err != nil {
			return
		}
		o.links.event(event, addr, time.Now())
	}
}

// runCommands tells whether the owner was told to stop.
func (o *owner) runCommands() (stop bool) {
	for {
		if _, err := o.control.RecvBytes(zmq.DONTWAIT); err != nil {
			break
		}
	}
	o.mu.Lock()
	commands := o.commands
	o.commands = nil
	stop = o.stopped
	o.mu.Unlock()
	for _, c := range commands {
		c.reply <- c.run()
	}
	return stop
}

// do runs f in the owner's goroutine.
func (o *owner) do(f func() error) error {
	c := command{run: f, reply: make(chan error, 1)}
	o.mu.Lock()
	if o.stopped {
		o.mu.Unlock()
		return driver.ErrClosed
	}
	o.commands = append(o.commands, c)
	o.ring()
	o.mu.Unlock()
	return <-c.reply
}

// ring wakes the goroutine. A full pair has woken it already.
func (o *owner) ring() { _, _ = o.wake.SendBytes(nil, zmq.DONTWAIT) }

func (o *owner) connect(endpoint string) error {
	err := o.do(func() error {
		o.guard.Lock()
		defer o.guard.Unlock()
		return o.links.connect(endpoint)
	})
	if err != nil {
		return fmt.Errorf("zmq: connect to %q: %w", endpoint, err)
	}
	return nil
}

func (o *owner) disconnect(endpoint string) error {
	err := o.do(func() error {
		if o.receive != nil {
			o.links.leave(endpoint, time.Now())
			return nil
		}
		return o.change(func() error { return o.links.disconnect(endpoint) })
	})
	if err != nil {
		return fmt.Errorf("zmq: disconnect from %q: %w", endpoint, err)
	}
	return nil
}

func (o *owner) live(ctx context.Context) error {
	var live <-chan struct{}
	if err := o.do(func() error { live = o.links.live; return nil }); err != nil {
		return err
	}
	select {
	case <-live:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-o.done:
		return driver.ErrClosed
	}
}

// stop ends the goroutine and waits for it. It is idempotent and safe for
// concurrent use.
func (o *owner) stop() {
	o.mu.Lock()
	if !o.stopped {
		o.stopped = true
		o.ring()
	}
	o.mu.Unlock()
	<-o.done
}
