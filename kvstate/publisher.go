package kvstate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/kvevents"
	"github.com/dynplane/dynplane/requestplane"
)

const (
	// The bounds of a message, which are those of Dynamo's workers. Larger events are
	// divided.
	maxMessageEvents = 128
	maxEventBlocks   = 8192

	// domain is the residency domain of all events of a worker.
	domain = "worker"

	// undoTimeout bounds the unregistering after a publisher could not be opened.
	undoTimeout = 5 * time.Second
)

// PublisherOptions are the options of a [Publisher]. The zero value is ready to use.
type PublisherOptions struct {
	// Worker is the id of the worker, which is the instance id of its endpoint and
	// card; 0 means that of the discovery client. Rank is its data-parallel rank. Each
	// rank has a publisher of its own.
	Worker uint64
	Rank   uint32

	// Server answers the queries of routers. It may be shared, and is not closed by
	// Shutdown. If it is nil, the publisher opens one with ServerOptions.
	Server        *requestplane.Server
	ServerOptions requestplane.ServerOptions

	// Codec is the one in which routers should encode their queries; empty means
	// Msgpack. Each query is answered in its own codec.
	Codec requestplane.Codec

	// Card, unless nil, is the model card of the worker, such as a
	// [discovery.ModelCard], which must name all ranks. The publisher then registers
	// the endpoint and the card as its last steps, and unregisters them first. A router
	// of Dynamo ignores workers without a card. At most one rank of a worker has it.
	//
	// The endpoint is the path [requestplane.Endpoint.Path] of Server, which refuses
	// requests unless the program handles them there.
	Card any

	Logger *slog.Logger // nil discards
}

// Publisher publishes the events of one rank of a worker, and answers the queries of
// routers that start late or have missed events. It is safe for concurrent use.
type Publisher struct {
	scope     discovery.Scope
	gen1      bool
	discovery *discovery.Client
	options   PublisherOptions
	log       *slog.Logger

	events    *eventplane.Publisher
	ownServer *requestplane.Server
	remove    func() // removes the endpoint of queries from the server
	others    []*discovery.Registration
	state     *history

	once sync.Once
	err  error // of Shutdown

	sending  sync.Mutex // the order of ids is that on the wire
	closed   bool
	lastID   uint64
	records  []record // reused
	payload  []byte   // reused
	appended []byte   // reused
}

// record is an event, and its encoded form.
type record struct {
	event kvevents.Event
	raw   []byte
}

// NewPublisher opens a publisher of the topic kv-events in scope, which is the
// endpoint of the worker with all three parts. d must be the discovery client of
// plane.
//
// It serves queries first, then registers channel and source, and then endpoint and
// card if there is one. If plane writes the format of Dynamo 1.3, the channel belongs
// to the component, and the endpoint of queries is registered in place of a source.
// Events can be published as soon as NewPublisher returns. With an error, nothing is
// left registered.
func NewPublisher(ctx context.Context, plane *eventplane.Client, d *discovery.Client, scope discovery.Scope, o PublisherOptions) (*Publisher, error) {
	p := &Publisher{scope: scope, gen1: plane.Wire() == discovery.WireGen1, discovery: d, options: o, log: o.Logger}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if err := p.open(ctx, plane); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("kvstate: publisher of rank %d in %.300s: %w", o.Rank, scope, err), p.Shutdown(undo))
	}
	return p, nil
}

func (p *Publisher) open(ctx context.Context, plane *eventplane.Client) (err error) {
	o := &p.options
	if err := p.scope.Validate(); err != nil {
		return err
	}
	if p.scope.Endpoint == "" {
		return errors.New("the scope has no endpoint: want NAMESPACE/COMPONENT/ENDPOINT")
	}
	if o.Codec == "" {
		o.Codec = requestplane.Msgpack
	}
	if o.Worker == 0 {
		o.Worker = p.discovery.InstanceID()
	}
	if o.Server == nil {
		if o.Server, err = requestplane.NewServer(o.ServerOptions); err != nil {
			return err
		}
		p.ownServer = o.Server
	}
	if p.gen1 {
		err = p.openGen1(ctx, plane)
	} else {
		p.state = newHistory(o.Worker, o.Rank, domain)
		p.events, err = plane.PublisherWithOptions(ctx, p.scope, topicKVEvents, eventplane.PublisherOptions{Source: p.source})
	}
	if err != nil || o.Card == nil {
		return err
	}
	path := requestplane.Endpoint{Instance: o.Worker, Namespace: p.scope.Namespace, Component: p.scope.Component, Name: p.scope.Endpoint}
	if p.gen1 {
		path.Namespace, path.Component = "", ""
	}
	if err := p.register(ctx, p.endpoint(p.scope, path)); err != nil {
		return err
	}
	model, err := discovery.NewModel(p.scope, o.Card, "")
	if err != nil {
		return err
	}
	return p.register(ctx, model)
}

// openGen1 is the part of open that differs in the older generation, whose routers
// find the endpoint of queries by its name.
func (p *Publisher) openGen1(ctx context.Context, plane *eventplane.Client) error {
	o := &p.options
	p.state = newHistory(o.Worker, o.Rank, "")
	scope := p.scope
	scope.Endpoint = fmt.Sprintf("%s%d", queryEndpoint1, o.Rank)
	path := requestplane.Endpoint{Instance: o.Worker, Name: scope.Endpoint}
	err := p.serve(path)
	if err != nil {
		return err
	}
	component := discovery.Scope{Namespace: scope.Namespace, Component: scope.Component}
	if p.events, err = plane.Publisher(ctx, component, topicKVEvents); err != nil {
		return err
	}
	return p.register(ctx, p.endpoint(scope, path))
}

func (p *Publisher) endpoint(scope discovery.Scope, path requestplane.Endpoint) discovery.Endpoint {
	address := p.options.Server.Address(path.Path()).String()
	return discovery.Endpoint{Scope: scope, Transport: discovery.TCP(address), RequestCodec: string(p.options.Codec)}
}

func (p *Publisher) register(ctx context.Context, spec discovery.Spec) error {
	r, err := p.discovery.RegisterAs(ctx, p.options.Worker, spec)
	if err == nil {
		p.others = append(p.others, r)
	}
	return err
}

// ID returns the id of the publisher, under which its channel and source are
// registered.
func (p *Publisher) ID() uint64 { return p.events.ID() }

// Server returns the server that answers queries.
func (p *Publisher) Server() *requestplane.Server { return p.options.Server }

// Ready is [eventplane.Publisher.Ready].
func (p *Publisher) Ready(ctx context.Context) error { return p.events.Ready(ctx) }

// Registration returns the registration of the channel.
func (p *Publisher) Registration() *discovery.Registration { return p.events.Registration() }

// Publish publishes events of the worker. They must be in Dynamo's form, as those of
// a [kvevents.Converter] are; worker, rank, id and domain are set by Publish. An event
// of more than 8,192 blocks becomes several.
//
// Each event is recorded before it is sent, so that routers can request it. It is also
// recorded if sending it fails; then it must not be published again. If ctx is done,
// or an event cannot be encoded, none is recorded.
//
// The error wraps [eventplane.ErrClosed] after Shutdown.
func (p *Publisher) Publish(ctx context.Context, events ...kvevents.Event) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.closed {
		return fmt.Errorf("kvstate: publish: %w", eventplane.ErrClosed)
	}
	defer func() { clear(p.records) }() // they refer to the memory of the caller
	p.records = p.records[:0]
	for i := range events {
		for part := range parts(&events[i]) {
			if err := p.encode(part); err != nil {
				return fmt.Errorf("kvstate: publish event %d of %d: %w", i+1, len(events), err)
			}
		}
	}
	p.lastID += uint64(len(p.records))
	p.state.record(p.records)
	return p.send(context.WithoutCancel(ctx), p.records)
}

// encode adds a copy of e to the records, with the next id.
func (p *Publisher) encode(e *kvevents.Event) (err error) {
	r := record{event: *e}
	r.event.Worker, r.event.Rank = p.state.worker, kvevents.Some(p.state.rank)
	r.event.ID, r.event.Domain = p.lastID+uint64(len(p.records))+1, p.state.domain
	if p.appended, err = kvevents.AppendRouterEvent(p.appended[:0], &r.event); err != nil {
		return err
	}
	r.raw = bytes.Clone(p.appended)
	p.records = append(p.records, r)
	return nil
}

// send publishes records in messages of Dynamo's size: single events in the older
// generation, and arrays of them in the newer one.
func (p *Publisher) send(ctx context.Context, records []record) (err error) {
	for len(records) > 0 {
		n, blocks := 1, len(records[0].event.Hashes)
		for ; !p.gen1 && n < min(len(records), maxMessageEvents); n++ {
			if blocks += len(records[n].event.Hashes); blocks > maxEventBlocks {
				break
			}
		}
		p.payload = p.payload[:0]
		if !p.gen1 {
			p.payload = appendArray(p.payload, n)
		}
		for i := range records[:n] {
			p.payload = append(p.payload, records[i].raw...)
		}
		if failed := p.events.Publish(ctx, encoded(p.payload)); failed != nil && err == nil {
			err = fmt.Errorf("kvstate: event %d is recorded, but was not sent: %w", records[0].event.ID, failed)
		}
		records = records[n:]
	}
	return err
}

// encoded is a payload in msgpack, for codecs.
type encoded []byte

// MarshalMsgpack returns the payload.
func (e encoded) MarshalMsgpack() ([]byte, error) { return e, nil }

// MarshalJSON converts the payload.
func (e encoded) MarshalJSON() ([]byte, error) { return codec.AppendJSON(nil, e) }

// PublisherStats are counters of a [Publisher].
type PublisherStats struct {
	LastID  uint64 // id of the newest event, or 0
	Blocks  int    // in the tree
	Queries uint64 // of routers
	Dumps   uint64 // that were made; several queries share one
}

// Stats returns the present counters.
func (p *Publisher) Stats() PublisherStats {
	h := p.state
	h.mu.Lock()
	defer h.mu.Unlock()
	return PublisherStats{h.last, h.tree.Len(), h.queries, h.dumps}
}

// Shutdown unregisters everything, so that routers remove the blocks at once: first
// card and endpoint, then source and channel. Then it stops to answer queries, and
// closes its own server after the running ones. ctx bounds the unregistering and the
// wait. Shutdown is idempotent; later calls return the first result.
func (p *Publisher) Shutdown(ctx context.Context) error {
	p.once.Do(func() {
		p.sending.Lock()
		p.closed = true
		p.sending.Unlock()
		var errs []error
		for i := range p.others {
			errs = append(errs, p.others[len(p.others)-1-i].Unregister(ctx))
		}
		if p.events != nil {
			errs = append(errs, p.events.Shutdown(ctx))
		}
		if p.remove != nil {
			p.remove()
		}
		if p.ownServer != nil {
			errs = append(errs, p.ownServer.Shutdown(ctx))
		}
		if err := errors.Join(errs...); err != nil {
			p.err = fmt.Errorf("kvstate: shutdown of the publisher of rank %d in %.300s: %w", p.options.Rank, p.scope, err)
		}
	})
	return p.err
}
