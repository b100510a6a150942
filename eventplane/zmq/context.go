//go:build cgo && !nozmq

package zmq

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	zmq "github.com/pebbe/zmq4"
)

// Context owns a libzmq context and every socket opened with it. An
// event-plane client has one. All methods are safe for concurrent use.
type Context struct {
	opts  Options
	zctx  *zmq.Context
	close func() error

	mu     sync.Mutex // held while sockets are opened: the context must not go meanwhile
	closed bool
	open   map[io.Closer]struct{}
	serial int // names the inproc endpoints
}

// New opens a context.
func New(opts Options) (*Context, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("zmq: %w", err)
	}
	zctx, err := zmq.NewContext()
	if err != nil {
		return nil, fmt.Errorf("zmq: open a context: %w", err)
	}
	if err := zctx.SetIoThreads(opts.IOThreads); err != nil {
		return nil, errors.Join(fmt.Errorf("zmq: use %d threads: %w", opts.IOThreads, err), zctx.Term())
	}
	c := &Context{opts: opts, zctx: zctx, open: make(map[io.Closer]struct{})}
	c.close = sync.OnceValue(c.closeAll)
	return c, nil
}

// Close closes all publishers and subscribers of the context, then the
// context. It returns after at most about 200 ms, in which what was published
// is still sent. It is idempotent.
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
	return errors.Join(append(errs, c.zctx.Term())...)
}

func (c *Context) forget(s io.Closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, s)
}

// DirectPublisher opens a publisher to which subscribers connect. It listens on a port
// that the system chooses, on host: the address of an interface, or 0.0.0.0
// or :: for all of them.
func (c *Context) DirectPublisher(host string) (*Publisher, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.directPublisher(host)
	if err != nil {
		return nil, fmt.Errorf("zmq: bind to %q: %w", host, err)
	}
	c.open[p] = struct{}{}
	return p, nil
}

var errHost = errors.New("want an IP address")

func (c *Context) directPublisher(host string) (*Publisher, error) {
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil {
		return nil, errHost
	}
	pattern := fmt.Sprintf("tcp://%s:*", addr)
	if addr.Is6() {
		pattern = fmt.Sprintf("tcp://[%s]:*", addr)
	}
	s, err := c.socket(zmq.PUB)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.SetIpv6(addr.Is6()), s.Bind(pattern)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	endpoint, err := s.GetLastEndpoint()
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return newPublisher(c, s, endpoint, ""), nil
}

// BrokerPublisher opens a publisher that listens nowhere: what it publishes goes to each
// broker that it is connected to. The subject is the one whose subscribers Ready
// waits for; messages of others can be published too.
func (c *Context) BrokerPublisher(subject string) (*Publisher, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.brokerPublisher(subject)
	if err != nil {
		return nil, fmt.Errorf("zmq: dial: %w", err)
	}
	c.open[p] = struct{}{}
	return p, nil
}

// brokerPublisher opens an XPUB, which is a PUB that tells the subscriptions it gets: all
// of them if it is verbose, also those of a second broker.
func (c *Context) brokerPublisher(subject string) (*Publisher, error) {
	socket, err := c.socket(zmq.XPUB)
	if err != nil {
		return nil, err
	}
	if err := socket.SetXpubVerbose(1); err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	p := newPublisher(c, socket, "", subject)
	if p.owner, err = newOwner(c, socket, &p.mu, nil); err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return p, nil
}

// Subscribe opens a subscriber of exactly subject, which is shorter than 4 KiB.
// It hears whatever it is connected to afterwards.
func (c *Context) Subscribe(subject string) (*Subscriber, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.subscribe(subject)
	if err != nil {
		return nil, fmt.Errorf("zmq: subscribe to %.100q: %w", subject, err)
	}
	c.open[s] = struct{}{}
	return s, nil
}

func (c *Context) subscribe(subject string) (*Subscriber, error) {
	if len(subject) >= maxSubscription { // with one byte before it on the wire
		return nil, fmt.Errorf("%d bytes: want less than %d", len(subject), maxSubscription)
	}
	socket, err := c.socket(zmq.SUB)
	if err != nil {
		return nil, err
	}
	if err := socket.SetSubscribe(subject); err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return newSubscriber(c, socket, subject)
}
