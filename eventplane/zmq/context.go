//go:build cgo && !nozmq

package zmq

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/rawzmq"
)

// Context owns a libzmq context and every socket opened with it. An event-plane
// client has one. All methods are safe for concurrent use.
type Context struct {
	opts  Options
	zctx  *rawzmq.Context
	close func() error

	mu     sync.Mutex // held while sockets are opened: zctx must not be terminated meanwhile
	closed bool
	open   map[io.Closer]struct{}
}

// New opens a context.
func New(opts Options) (*Context, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("zmq: %w", err)
	}
	zctx, err := rawzmq.NewContext(opts.IOThreads)
	if err != nil {
		return nil, fmt.Errorf("zmq: %w", err)
	}
	c := &Context{opts: opts, zctx: zctx, open: make(map[io.Closer]struct{})}
	c.close = sync.OnceValue(c.closeAll)
	return c, nil
}

// Version returns the version of libzmq, such as 4.3.5. It is empty in a
// program without libzmq.
func Version() string { return rawzmq.Version() }

// Close closes all publishers and subscribers of the context, then the context.
// It blocks for about 200 ms at most, in which queued messages are still sent.
// It is idempotent.
func (c *Context) Close() error { return c.close() }

func (c *Context) closeAll() error {
	c.mu.Lock()
	c.closed = true
	open := slices.Collect(maps.Keys(c.open))
	c.mu.Unlock()

	var errs []error
	for _, s := range open {
		errs = append(errs, s.Close())
	}
	if err := c.zctx.Term(); err != nil {
		errs = append(errs, fmt.Errorf("zmq: %w", err))
	}
	return errors.Join(errs...)
}

func (c *Context) remove(s io.Closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, s)
}

// socket opens a socket. The caller holds c.mu.
func (c *Context) socket(kind rawzmq.Kind, o rawzmq.Options) (*rawzmq.Socket, error) {
	if c.closed {
		return nil, driver.ErrClosed
	}
	o.SendHWM = c.opts.HWM
	return c.zctx.Socket(kind, o)
}

// DirectPublisher opens a publisher to which subscribers connect. It listens on
// a port that the system chooses. The host must be the address of an interface,
// or 0.0.0.0 or :: for all interfaces. Ready and WaitSubscribers wait for
// subscriptions to subject; messages with other subjects can be published too. The
// publisher has that id until it publishes the first message.
func (c *Context) DirectPublisher(host, subject string, id uint64) (*Publisher, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.directPublisher(host, subject)
	if err != nil {
		return nil, fmt.Errorf("zmq: listen on %q: %w", host, err)
	}
	p.id = id
	c.open[p] = struct{}{}
	p.loop.start(p.readSubscriptions)
	return p, nil
}

var errHost = errors.New("want an IP address")

func (c *Context) directPublisher(host, subject string) (*Publisher, error) {
	if err := checkSubject(subject); err != nil {
		return nil, err
	}
	socket, err := c.socket(rawzmq.XPUB, rawzmq.Options{ReceiveHWM: rawzmq.Unlimited, MaxFrame: rawzmq.MaxSubscription, Heartbeats: true})
	if err != nil {
		return nil, err
	}
	p, err := newPublisher(c, socket, subject, &arrivals{}, rawzmq.Accepted|rawzmq.HandshakeSucceeded|rawzmq.Disconnected)
	if err != nil {
		return nil, err
	}
	err = socket.Set(rawzmq.ReceiveBuffer, floodBuffer)
	if err == nil {
		p.endpoint, err = listen(socket, host)
	}
	if err != nil {
		return nil, errors.Join(err, p.loop.close())
	}
	port, _ := strconv.Atoi(p.endpoint[strings.LastIndexByte(p.endpoint, ':')+1:]) // libzmq's
	p.loop.guard = newFloodGuard(port, p.loop.collect, c.opts.Logger)
	return p, nil
}

// listen binds a socket to a port of host that the system chooses.
func listen(socket *rawzmq.Socket, host string) (endpoint string, err error) {
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil {
		return "", errHost
	}
	pattern, ipv6 := fmt.Sprintf("tcp://%s:*", addr), 0
	if addr.Is6() {
		pattern, ipv6 = fmt.Sprintf("tcp://[%s]:*", addr), 1
	}
	if err := errors.Join(socket.Set(rawzmq.IPv6, ipv6), socket.Bind(pattern)); err != nil {
		return "", err
	}
	return socket.LastEndpoint()
}

// BrokerPublisher opens a publisher that does not listen: it sends to each
// broker that it is connected to. Ready waits for subscriptions to subject;
// messages with other subjects can be published too.
func (c *Context) BrokerPublisher(subject string) (*Publisher, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.brokerPublisher(subject)
	if err != nil {
		return nil, fmt.Errorf("zmq: open a publisher for brokers: %w", err)
	}
	c.open[p] = struct{}{}
	p.loop.start(p.readSubscriptions)
	return p, nil
}

func (c *Context) brokerPublisher(subject string) (*Publisher, error) {
	if err := checkSubject(subject); err != nil {
		return nil, err
	}
	socket, err := c.socket(rawzmq.XPUB, rawzmq.Options{ReceiveHWM: rawzmq.SubscriptionHWM, MaxFrame: rawzmq.MaxSubscription})
	if err != nil {
		return nil, err
	}
	connections := newConnections(socket, c.opts.Logger)
	p, err := newPublisher(c, socket, subject, connections, connectionEvents)
	if err != nil {
		return nil, err
	}
	p.connections = connections
	return p, nil
}

// checkSubject refuses a subject for which peers of this package would disconnect
// a subscriber.
func checkSubject(subject string) error {
	if len(subject) > maxSubject {
		return fmt.Errorf("subject of %d bytes: want at most %d", len(subject), maxSubject)
	}
	return nil
}

// Subscribe opens a subscriber of exactly subject, which must have 4,068 bytes at
// most. It receives from all endpoints that it is connected to afterwards.
func (c *Context) Subscribe(subject string) (*Subscriber, error) {
	return c.SubscribeWith(subject, driver.QueueOptions{})
}

// SubscribeWith is like [Context.Subscribe], with a queue of its own settings.
// Those of the context apply where they are 0.
func (c *Context) SubscribeWith(subject string, queue driver.QueueOptions) (*Subscriber, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.subscribe(subject, queue)
	if err != nil {
		return nil, fmt.Errorf("zmq: subscribe to %.100q: %w", subject, err)
	}
	c.open[s] = struct{}{}
	return s, nil
}

func (c *Context) subscribe(subject string, queue driver.QueueOptions) (*Subscriber, error) {
	queue.Size, queue.Bytes = cmp.Or(queue.Size, c.opts.QueueSize), cmp.Or(queue.Bytes, c.opts.QueueBytes)
	queue, err := queue.WithDefaults()
	if err == nil {
		err = checkSubject(subject)
	}
	if err != nil {
		return nil, err
	}
	socket, err := c.socket(rawzmq.SUB, rawzmq.Options{ReceiveHWM: rawzmq.ReceiveHWM, MaxFrame: c.opts.MaxMessage})
	if err != nil {
		return nil, err
	}
	return newSubscriber(c, socket, subject, queue)
}
