package eventplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane/driver"
)

// maxKeptBuffer is the capacity in bytes above which a buffer is not reused, so
// that one large event does not hold its memory forever.
const maxKeptBuffer = 1 << 20

// undoTimeout bounds the unregistering of a channel whose source cannot be
// registered.
const undoTimeout = 5 * time.Second

// PublisherOptions are the settings of one [Publisher]. The zero value is that of
// [Client.Publisher].
type PublisherOptions struct {
	// Source, unless nil, returns the metadata of the publisher's event source,
	// encoded as JSON: a [discovery.KVSource] on the topic kv-events, or a
	// json.RawMessage. It is called once, with the id of the publisher, which
	// Dynamo's metadata contains. The source is registered after the channel,
	// under the same id, and unregistered by Shutdown.
	//
	// Dynamo's KV router drops the events of publishers without a source.
	Source func(publisher uint64) any
}

// Publisher sends the events of one scope and topic. It is safe for concurrent
// use: events are sent in the order of their sequences.
type Publisher struct {
	client *Client
	id     uint64
	topic  string
	codec  codec.Codec
	conn   *pubConn
	reg    *discovery.Registration // of the channel
	source *discovery.Registration // nil if there is none

	payloads sync.Pool // of *[]byte

	once sync.Once
	err  error // of Shutdown

	mu       sync.Mutex
	closed   bool
	sequence uint64         // of the next event
	body     []byte         // reused
	message  driver.Message // reused
}

// newPublisher opens the transport first, since only then a ZMQ endpoint has a
// port to register. It closes the transport again if the registration fails.
func (c *Client) newPublisher(ctx context.Context, scope discovery.Scope, topic string, o PublisherOptions) (*Publisher, error) {
	if c.discovery == nil {
		return nil, ErrNoDiscovery
	}
	r, err := newRoute(scope, topic, c.config.Wire)
	if err != nil {
		return nil, err
	}
	id := discovery.NewInstanceID()
	conn, err := c.transport.publisher(ctx, r, id)
	if err != nil {
		return nil, err
	}
	p := &Publisher{client: c, id: id, topic: topic, codec: c.config.Codec, conn: conn}
	if err := p.register(ctx, scope, o); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if conn.follow == nil {
		conn.follow = c.compareTransports(r)
	}
	c.config.Logger.Debug("eventplane: publisher registered", "channel", p.reg.Instance().ID().Path(), "address", conn.advertised.Address())
	return p, nil
}

// register registers the channel and then the source, or neither.
func (p *Publisher) register(ctx context.Context, scope discovery.Scope, o PublisherOptions) error {
	source := discovery.EventSource{Scope: scope, Topic: p.topic}
	if o.Source != nil {
		var err error
		if source.Metadata, err = json.Marshal(o.Source(p.id)); err != nil {
			return fmt.Errorf("metadata of the event source: %w", err)
		}
	}
	reg, err := p.client.discovery.RegisterAs(ctx, p.id, discovery.EventChannel{Scope: scope, Topic: p.topic, Transport: p.conn.advertised})
	if err != nil {
		return err
	}
	p.reg = reg
	if o.Source == nil {
		return nil
	}
	if p.source, err = p.client.discovery.RegisterAs(ctx, p.id, source); err == nil {
		return nil
	}
	// The caller's context may be the cause.
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return errors.Join(err, reg.Unregister(undo))
}

// ID returns the id under which the publisher is registered, which is also the
// PublisherID of its events. It is a random number of 53 bits.
func (p *Publisher) ID() uint64 { return p.id }

// Registration returns the registration of the publisher's channel. Its Wait
// method returns when the registration has ended, such as when another client
// has taken it over.
func (p *Publisher) Registration() *discovery.Registration { return p.reg }

// Ready blocks until events that are published are forwarded by all brokers that
// the publisher is connected to. Without brokers it returns at once.
//
// Ready waits for the subscription of each broker. The broker of this module
// subscribes to everything as soon as it is connected. A broker that forwards
// the subscriptions of its own subscribers keeps Ready blocked until there is
// one. So does a broker that is down. The error is that of ctx, or wraps
// [ErrClosed].
func (p *Publisher) Ready(ctx context.Context) error {
	err := p.conn.Ready(ctx)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("eventplane: publisher of %s: %w", p.topic, translateClosed(err))
}

// Publish encodes an event with the client's codec and sends it, without waiting
// for subscribers. A nil error does not mean that the event was delivered.
//
// An event that is encoded uses up a sequence even if sending it fails, so that
// subscribers detect the loss. An event that cannot be encoded, and a ctx that is
// already done, use up none. ctx does not bound the sending, which does not wait
// for peers.
//
// The error wraps [ErrClosed] after Shutdown, or the error of the codec or
// transport. The publisher can still be used after an error.
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

// PublishBytes sends payload as it is, as opaque bytes. It is otherwise like
// Publish. It does not keep payload.
func (p *Publisher) PublishBytes(ctx context.Context, payload []byte) error {
	return p.publish(ctx, payload, true)
}

// publish holds the lock while it sends, so that the order of sequences is the
// order on the wire. The buffers are reused under the same lock.
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
	p.message.Body = nil // body may be too large to be kept
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("eventplane: publish %s: %w", p.topic, err)
	}
	return err
}

// Shutdown unregisters the source, if there is one, and the channel, so that
// subscribers see them removed at once, and then closes the transport, which
// sends queued events within a bounded time. ctx bounds only the unregistering.
// Shutdown is idempotent; later calls return the first result.
func (p *Publisher) Shutdown(ctx context.Context) error {
	p.once.Do(func() {
		var err error
		if p.source != nil {
			err = p.source.Unregister(ctx)
		}
		err = errors.Join(err, p.reg.Unregister(ctx))
		p.mu.Lock()
		p.closed = true // no Publish is in progress, since it holds mu
		p.mu.Unlock()
		err = errors.Join(err, p.conn.Close())
		p.client.remove(p)
		if err != nil {
			p.err = fmt.Errorf("eventplane: shutdown of the publisher of %s: %w", p.topic, err)
		}
	})
	return p.err
}
