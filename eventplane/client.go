package eventplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/dynplane/dynplane/discovery"
)

// Client opens publishers and subscribers, which share its NATS connection or
// ZMQ context. It is safe for concurrent use.
type Client struct {
	config    Config
	discovery *discovery.Client
	transport transport

	once sync.Once
	err  error // of Shutdown

	mu      sync.Mutex
	closed  bool
	calls   map[*call]struct{} // being opened
	running sync.WaitGroup     // of calls; Add only while closed is false
	open    map[shutdowner]struct{}
}

// call is a call of Publisher or Subscriber that has not returned.
type call struct{ cancel context.CancelCauseFunc }

// shutdowner is a publisher or subscriber.
type shutdowner interface{ Shutdown(context.Context) error }

// New makes a client, and logs in one line what was resolved and why. d
// announces publishers and finds peers; it is not shut down with the client. It
// may be nil where it is not needed: for subscribers on NATS and for those
// whose brokers the configuration names.
//
// Nothing is dialled yet. ZMQ without cgo is an error that wraps
// errors.ErrUnsupported.
func New(cfg Config, d *discovery.Client) (*Client, error) {
	c, err := cfg.resolve()
	if err != nil {
		return nil, fmt.Errorf("eventplane: %w", err)
	}
	t, err := openTransport(c, d)
	if err != nil {
		return nil, fmt.Errorf("eventplane: %w", err)
	}
	c.Logger.Info("eventplane: configured", "transport", c.Transport, "codec", c.Codec.Name(),
		"wire", c.Wire.String(), "broker", c.Broker.String(), "reason", c.Reason)
	return &Client{
		config: c, discovery: d, transport: t,
		calls: map[*call]struct{}{}, open: map[shutdowner]struct{}{},
	}, nil
}

// Publisher opens the transport, then registers the channel of scope and topic
// under an id of its own, so that who finds it can connect. With brokers by
// discovery it returns once it is connected to those that there are, or has
// begun to: there may be none yet.
func (c *Client) Publisher(ctx context.Context, scope discovery.Scope, topic string) (*Publisher, error) {
	var p *Publisher
	err := c.run(ctx, func(ctx context.Context) (err error) {
		p, err = c.newPublisher(ctx, scope, topic)
		if err == nil {
			c.keep(p)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("eventplane: publisher of %s in %s: %w", topic, scope, err)
	}
	return p, nil
}

// Subscriber begins to hear exactly scope and topic: not what is below. It does
// not wait until it hears; see Subscriber.Ready.
func (c *Client) Subscriber(ctx context.Context, scope discovery.Scope, topic string) (*Subscriber, error) {
	var s *Subscriber
	err := c.run(ctx, func(ctx context.Context) (err error) {
		s, err = c.newSubscriber(ctx, scope, topic)
		if err == nil {
			c.keep(s)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("eventplane: subscriber of %s in %s: %w", topic, scope, err)
	}
	return s, nil
}

// run calls f unless the client is shut down. Shutdown cancels the ctx of f and
// waits for it.
func (c *Client) run(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	call := &call{cancel}
	if !c.begin(call) {
		return ErrClosed
	}
	defer c.end(call)
	err := f(ctx)
	if err != nil && errors.Is(context.Cause(ctx), ErrClosed) {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}

// begin adds a call. It reports false if the client is shut down.
func (c *Client) begin(call *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.calls[call] = struct{}{}
	c.running.Add(1)
	return true
}

func (c *Client) end(call *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, call)
	c.running.Done()
}

// cancelCalls cancels the calls that are running, waits for them, and makes
// further ones fail.
func (c *Client) cancelCalls() {
	c.mu.Lock()
	c.closed = true
	for call := range c.calls {
		call.cancel(ErrClosed)
	}
	c.mu.Unlock()
	c.running.Wait()
}

func (c *Client) keep(s shutdowner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[s] = struct{}{}
}

func (c *Client) forget(s shutdowner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, s)
}

// Shutdown shuts down all publishers and subscribers and releases what they
// shared. It is idempotent. ctx bounds the unregistering; everything is
// released in any case.
func (c *Client) Shutdown(ctx context.Context) error {
	c.once.Do(func() {
		c.cancelCalls()
		var errs []error
		for _, s := range c.all() {
			errs = append(errs, s.Shutdown(ctx))
		}
		if err := c.transport.close(); err != nil {
			errs = append(errs, fmt.Errorf("eventplane: %w", err))
		}
		c.err = errors.Join(errs...)
	})
	return c.err
}

func (c *Client) all() []shutdowner {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.open))
}
