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

	// History is the number of events that the publisher keeps for subscribers that
	// missed them; 0 means [DefaultHistory]. Negative keeps none.
	History int

	// HistoryBytes bounds the same events by their size in bytes, whichever bound is
	// reached first; 0 means [DefaultHistoryBytes]. A single event may be larger.
	// Negative keeps none. Both also bound the events that have not been sent yet,
	// with their defaults if no history is kept. See Config.HistoryBytes.
	HistoryBytes int
}

// Publisher sends the events of one scope and topic. It is safe for concurrent
// use: events are sent in the order of their sequences.
type Publisher struct {
	client *Client
	id     uint64
	topic  string
	codec  codec.Codec
	conn   *pubConn
	outbox *outbox
	reg    *discovery.Registration // of the channel
	source *discovery.Registration // nil if there is none

	payloads sync.Pool // of *[]byte

	closeOutbox sync.Once
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
	p.outbox = newOutbox(p.id, conn, &c.histories, c.config, o)
	err = p.outbox.serveReplay()
	if err == nil {
		err = p.register(ctx, scope, o)
	}
	if err != nil {
		return nil, errors.Join(err, p.outbox.abort())
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
// the publisher is connected to, or on ZMQ without brokers to all subscribers that are
// connected: one that has not subscribed a second after its handshake counts no more.
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

// WaitSubscribers blocks until at least n subscribers receive what is published from
// now on, or ctx is done. It counts the subscribers on ZMQ without brokers; of those
// of other software, each subscription that matches counts. Elsewhere subscribers
// cannot be counted, and the error wraps errors.ErrUnsupported.
func (p *Publisher) WaitSubscribers(ctx context.Context, n int) error {
	if n <= 0 {
		return ctx.Err()
	}
	err := fmt.Errorf("subscribers on this transport cannot be counted: %w", errors.ErrUnsupported)
	if w, ok := p.conn.Publisher.(driver.SubscriberWaiter); ok {
		err = w.WaitSubscribers(ctx, n)
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("eventplane: publisher of %s: wait for %d subscribers: %w", p.topic, n, translateClosed(err))
}

// Publish encodes an event with the client's codec and sends it, without waiting
// for subscribers. A nil error does not mean that the event was delivered.
//
// On NATS, Publish leaves the sending to a goroutine, so it does not wait for the
// server either. While the server cannot be reached, events are kept, within the
// bounds of PublisherOptions.History, and sent afterwards. Once these are reached,
// the oldest events are dropped; [PublisherStats] counts them, and subscribers detect
// the gap. As long as events are sent, only slower than they are published, Publish
// waits instead, until ctx is done.
//
// An event that is encoded uses up a sequence even if sending it fails, so that
// subscribers detect the loss. An event that cannot be encoded or is too large, and a
// ctx that is already done, use up none.
//
// The error wraps [ErrClosed] after Shutdown, or the error of the codec or transport,
// such as nats.ErrMaxPayload. It may be the error of an earlier event, such as
// nats.ErrPermissionViolation; this event has then not been published. The publisher
// can still be used after an error.
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

func (p *Publisher) publish(ctx context.Context, payload []byte, opaque bool) error {
	env := codec.Envelope{PublisherID: p.id, Topic: p.topic, Payload: payload, Bytes: opaque}
	if err := p.outbox.publish(ctx, &env, p.codec); err != nil && (ctx.Err() == nil || !errors.Is(err, ctx.Err())) {
		return fmt.Errorf("eventplane: publish %s: %w", p.topic, translateClosed(err))
	} else if err != nil {
		return ctx.Err()
	}
	return nil
}

// Stats returns the counters of the publisher.
func (p *Publisher) Stats() PublisherStats { return p.outbox.stats() }

// Shutdown unregisters the source, if there is one, and the channel, so that
// subscribers see them removed at once, sends the events that are still waiting, and
// closes the transport. ctx bounds all of it; without a deadline, Shutdown gives up
// sending after five seconds without progress. Events that have not been sent are an
// error, and PublisherStats.Lost counts them.
//
// Shutdown is idempotent. After an error, a later call unregisters what is still
// registered.
func (p *Publisher) Shutdown(ctx context.Context) error {
	p.outbox.finish()
	var err error
	if p.source != nil {
		err = p.source.Unregister(ctx)
	}
	err = errors.Join(err, p.reg.Unregister(ctx))
	if err == nil {
		p.client.remove(p)
	}
	p.closeOutbox.Do(func() { err = errors.Join(err, p.outbox.close(ctx)) })
	if err != nil {
		return fmt.Errorf("eventplane: shutdown of the publisher of %s: %w", p.topic, err)
	}
	return nil
}
