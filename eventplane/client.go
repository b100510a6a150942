package eventplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
)

// Client opens publishers and subscribers. They share its NATS connection or ZMQ
// context. It is safe for concurrent use.
type Client struct {
	config    Config
	discovery *discovery.Client
	transport transport

	histories historyBudget

	codecWarning sync.Once

	closeTransport sync.Once

	mu      sync.Mutex
	closed  bool
	calls   map[*call]struct{}
	running sync.WaitGroup // one for each of calls; Add only while closed is false
	open    map[shutdowner]struct{}
}

// call is a call of Publisher or Subscriber that has not returned.
type call struct{ cancel context.CancelCauseFunc }

// shutdowner is a publisher or subscriber.
type shutdowner interface{ Shutdown(context.Context) error }

// New returns a client with the settings of cfg, and logs them in one line with
// their origin. It neither dials nor binds.
//
// The client registers publishers and finds peers through d, which stays open
// after the client is shut down. d may be nil if the client opens no publishers,
// and only subscribers on NATS or with the brokers that cfg names.
//
// The error is that of an invalid Config, or wraps errors.ErrUnsupported if cfg
// selects ZMQ in a program built without it.
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
		config: c, discovery: d, transport: t, histories: historyBudget{max: int64(c.HistoryBytes)},
		calls: map[*call]struct{}{}, open: map[shutdowner]struct{}{},
	}, nil
}

// Wire returns the format that the client writes.
func (c *Client) Wire() WireFormat { return c.config.Wire }

// Publisher returns a publisher of a scope and topic. It opens the transport,
// and then registers the channel in discovery under a new id, by which
// subscribers find it.
//
// ctx bounds the dialling and the registration, not the life of the publisher.
// With brokers by discovery, Publisher returns once it has begun to connect to
// the brokers that are registered, if there are any; see [Publisher.Ready].
//
// The error wraps [ErrClosed] after Shutdown and [ErrNoDiscovery] without a
// discovery client. Errors of discovery and of the transport are wrapped.
func (c *Client) Publisher(ctx context.Context, scope discovery.Scope, topic string) (*Publisher, error) {
	return c.PublisherWithOptions(ctx, scope, topic, PublisherOptions{})
}

// PublisherWithOptions is like [Client.Publisher], with settings for this
// publisher.
func (c *Client) PublisherWithOptions(ctx context.Context, scope discovery.Scope, topic string, o PublisherOptions) (*Publisher, error) {
	var p *Publisher
	err := c.run(ctx, func(ctx context.Context) (err error) {
		p, err = c.newPublisher(ctx, scope, topic, o)
		if err == nil {
			c.add(p)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("eventplane: publisher of %.100s in %.300s: %w", topic, scope, err)
	}
	return p, nil
}

// Subscriber returns a subscriber of exactly a scope and topic: it does not
// receive the events of the scopes below. It may return before the subscription
// is in effect; see [Subscriber.Ready].
//
// ctx bounds the dialling, not the life of the subscriber. The error wraps
// [ErrClosed] after Shutdown, and [ErrNoDiscovery] if the peers of the
// subscriber are found by discovery and there is no discovery client.
func (c *Client) Subscriber(ctx context.Context, scope discovery.Scope, topic string) (*Subscriber, error) {
	return c.SubscriberWithOptions(ctx, scope, topic, SubscriberOptions{})
}

// SubscriberWithOptions is like [Client.Subscriber], with settings for this
// subscriber.
func (c *Client) SubscriberWithOptions(ctx context.Context, scope discovery.Scope, topic string, o SubscriberOptions) (*Subscriber, error) {
	var s *Subscriber
	err := c.run(ctx, func(ctx context.Context) (err error) {
		s, err = c.newSubscriber(ctx, scope, topic, o)
		if err == nil {
			c.add(s)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("eventplane: subscriber of %.100s in %.300s: %w", topic, scope, err)
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

// end removes a call that has returned.
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

// add adds a publisher or subscriber that Shutdown has to shut down. It is called
// within run, so that Shutdown does not miss it.
func (c *Client) add(s shutdowner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[s] = struct{}{}
}

// remove removes a publisher or subscriber that has shut down by itself.
func (c *Client) remove(s shutdowner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, s)
}

// Shutdown shuts down all publishers and subscribers, and then closes the NATS
// connection that the client dialled, or the ZMQ context. Calls of Publisher and
// Subscriber that are in progress fail with ErrClosed. A connection of the
// caller stays open; see Config.NATSConn.
//
// They are shut down at the same time. ctx bounds the unregistering and the sending
// of publishers; everything else is released in any case. Shutdown is idempotent.
// After an error, a later call unregisters the publishers that are still registered.
func (c *Client) Shutdown(ctx context.Context) error {
	c.cancelCalls()
	open := c.all()
	errs := make([]error, len(open), len(open)+1)
	var closing sync.WaitGroup
	for i, s := range open {
		closing.Go(func() { errs[i] = s.Shutdown(ctx) })
	}
	closing.Wait()
	c.closeTransport.Do(func() {
		if err := c.transport.close(); err != nil {
			errs = append(errs, fmt.Errorf("eventplane: %w", err))
		}
	})
	return errors.Join(errs...)
}

// compareTransports looks once for publishers of a route that use another
// transport than the client does by default, and logs a warning of the first. It
// returns nil if the transport has been set, or there is no discovery.
func (c *Client) compareTransports(r route) *follower {
	if !c.config.transportAssumed || c.config.Broker.enabled() || c.discovery == nil {
		return nil
	}
	f := c.newFollower(r)
	f.once = true
	f.start()
	return f
}

// followChannels passes the publishers of a route to d, to whose endpoints nothing
// connects: they are on NATS, or behind brokers.
func (c *Client) followChannels(r route, d *departures) *follower {
	f := c.newFollower(r)
	f.departures = d
	f.start()
	return f
}

// newFollower returns a follower of the channels of a route that connects to nothing.
func (c *Client) newFollower(r route) *follower {
	return &follower{
		discovery: c.discovery, log: c.config.Logger,
		query: r.channels(),
		match: func(ch discovery.EventChannel) channelState {
			return channelState{matches: true, incompatible: !ofKind(ch.Transport, c.config.Transport), replay: replayEndpoint(ch.Transport)}
		},
	}
}

// replayEndpoint returns the address at which a publisher replays events. It is
// empty on NATS, and for publishers that do not.
func replayEndpoint(t discovery.Transport) string {
	switch t := t.(type) {
	case discovery.ZMQ:
		return t.ReplayEndpoint
	case discovery.ZMQBroker:
		return t.ReplayEndpoint
	}
	return ""
}

// ofKind reports whether a channel's transport is a known one of that kind.
func ofKind(t discovery.Transport, kind string) bool {
	_, unknown := t.(discovery.UnknownTransport)
	return !unknown && t.Kind() == kind
}

// compareCodec logs a warning, once, if an event has another codec than the client
// uses by default: the publishers around may be unable to decode it. That a
// codec has been set is a decision, of which there is nothing to warn.
func (c *Client) compareCodec(ev codec.Envelope) {
	own := c.config.Codec
	if ev.Codec == own || own != c.config.assumedCodec {
		return
	}
	c.codecWarning.Do(func() {
		c.config.Logger.Warn("eventplane: received an event in another codec than the default in which this client publishes",
			"topic", ev.Topic, "publisher", ev.PublisherID, "codec", ev.Codec.Name(), "default", own.Name(),
			"remedy", "set DYN_EVENT_PLANE_CODEC="+ev.Codec.Name()+" to publish in that of the peers, or "+own.Name()+" to keep the default")
	})
}

// all returns what is open. It is a copy, since each Shutdown calls remove.
func (c *Client) all() []shutdowner {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.open))
}
