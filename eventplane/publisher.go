package eventplane

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane/driver"
)

// maxKeptBuffer keeps one large event from holding its memory for ever.
const maxKeptBuffer = 1 << 20

// Publisher sends the events of one topic of a scope. It is safe for
// concurrent use: the order of sequences is the order in which events are sent.
type Publisher struct {
	client *Client
	id     uint64
	topic  string
	codec  codec.Codec
	conn   *pubConn
	reg    *discovery.Registration

	payloads sync.Pool // of *[]byte

	once sync.Once
	err  error // of Shutdown

	mu       sync.Mutex
	closed   bool
	sequence uint64         // of the next event
	body     []byte         // reused
	message  driver.Message // reused
}

func (c *Client) newPublisher(ctx context.Context, scope discovery.Scope, topic string) (*Publisher, error) {
	if c.discovery == nil {
		return nil, ErrNoDiscovery
	}
	r, err := newRoute(scope, topic, c.config.Wire)
	if err != nil {
		return nil, err
	}
	conn, err := c.transport.publisher(ctx, r)
	if err != nil {
		return nil, err
	}
	id := discovery.NewInstanceID()
	reg, err := c.discovery.RegisterAs(ctx, id, discovery.EventChannel{Scope: scope, Topic: topic, Transport: conn.advertised})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c.config.Logger.Debug("eventplane: publisher is registered", "channel", reg.Instance.ID().Path(), "address", conn.advertised.Address())
	return &Publisher{client: c, id: id, topic: topic, codec: c.config.Codec, conn: conn, reg: reg}, nil
}

// ID returns the id that the publisher is registered under and stamps on its
// events: random, of 53 bits.
func (p *Publisher) ID() uint64 { return p.id }

// Registration returns the registration of the publisher's channel. Its Wait
// tells when somebody else has taken it over.
func (p *Publisher) Registration() *discovery.Registration { return p.reg }

// Ready blocks until what is published goes on to the brokers that the publisher
// goes through: all that are known, so one that is down keeps it waiting until
// ctx is done. Our broker asks for all events as soon as it is connected; one
// that only passes on the subscriptions of others keeps Ready waiting too until
// there is a subscriber. On the other transports it returns at once.
func (p *Publisher) Ready(ctx context.Context) error {
	err := p.conn.Ready(ctx)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("eventplane: publisher of %s: %w", p.topic, err)
	}
	return err
}

// Publish encodes an event and sends it. It waits for no subscriber: nil is no
// proof that anybody heard. An event that could be encoded uses up a sequence
// even if sending fails, so subscribers see that it is missing; a ctx that is
// done already does not.
func (p *Publisher) Publish(ctx context.Context, event any) error {
	buf, _ := p.payloads.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	payload, err := p.codec.Append((*buf)[:0], event)
	if err != nil {
		return fmt.Errorf("eventplane: publish %s: %w", p.topic, err)
	}
	err = p.publish(ctx, payload, false)
	if cap(payload) <= maxKeptBuffer {
		*buf = payload
		p.payloads.Put(buf)
	}
	return err
}

// PublishBytes sends bytes as they are, without encoding them. It is otherwise
// like Publish and does not keep payload.
func (p *Publisher) PublishBytes(ctx context.Context, payload []byte) error {
	return p.publish(ctx, payload, true)
}

func (p *Publisher) publish(ctx context.Context, payload []byte, opaque bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.closed {
		return fmt.Errorf("eventplane: publish %s: %w", p.topic, ErrClosed)
	}
	env := codec.Envelope{
		PublisherID: p.id, Sequence: p.sequence, PublishedAt: uint64(time.Now().UnixMilli()),
		Topic: p.topic, Payload: payload, Bytes: opaque,
	}
	body, err := env.Append(p.body[:0], p.codec)
	if err != nil {
		return fmt.Errorf("eventplane: publish %s: %w", p.topic, err)
	}
	if cap(body) <= maxKeptBuffer {
		p.body = body
	}
	p.sequence++
	p.message = driver.Message{Subject: p.conn.subject, PublisherID: p.id, Sequence: env.Sequence, Body: body}
	err = p.conn.Publish(ctx, &p.message)
	p.message.Body = nil // not ours to keep if it is large
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("eventplane: publish %s: %w", p.topic, err)
	}
	return err
}

// Shutdown unregisters the channel, so that others see it removed at once, and
// then closes the transport, which sends what is queued within a bounded time.
// It is idempotent. ctx bounds the unregistering alone.
func (p *Publisher) Shutdown(ctx context.Context) error {
	p.once.Do(func() {
		err := p.reg.Unregister(ctx)
		p.mu.Lock()
		p.closed = true // and nobody is in Publish
		p.mu.Unlock()
		err = errors.Join(err, p.conn.Close())
		p.client.forget(p)
		if err != nil {
			p.err = fmt.Errorf("eventplane: shutdown of the publisher of %s: %w", p.topic, err)
		}
	})
	return p.err
}
