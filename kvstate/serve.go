package kvstate

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/kvevents"
	"github.com/dynplane/dynplane/requestplane"
)

// recoveryTarget is the endpoint of queries in the metadata of a source.
type recoveryTarget struct {
	Namespace  string                     `json:"namespace"`
	Component  string                     `json:"component"`
	Endpoint   string                     `json:"endpoint"`
	InstanceID uint64                     `json:"instance_id"`
	Transport  discovery.RequestTransport `json:"transport"`
	Codec      string                     `json:"request_plane_codec"`
}

// source serves the queries to a publisher, and returns the metadata of its source.
func (p *Publisher) source(publisher uint64) any {
	o := &p.options
	path := requestplane.Endpoint{
		Instance: o.Worker, Namespace: p.scope.Namespace, Component: p.scope.Component,
		Name: fmt.Sprintf("worker_kv_query_source_%x", publisher),
	}
	if err := p.serve(path); err != nil {
		return failure{err}
	}
	address := o.Server.Address(path.Path()).String()
	target, err := json.Marshal(recoveryTarget{path.Namespace, path.Component, path.Name, o.Worker, discovery.TCP(address), string(o.Codec)})
	if err != nil {
		return failure{err}
	}
	return discovery.KVSource{Endpoint: p.scope, WorkerID: o.Worker, Rank: o.Rank, PublisherID: publisher, RecoveryTarget: target}
}

// failure is metadata that cannot be encoded: its error is that of the publisher.
type failure struct{ error }

// MarshalJSON returns the error.
func (f failure) MarshalJSON() ([]byte, error) { return nil, f.error }

func (p *Publisher) serve(path requestplane.Endpoint) (err error) {
	p.remove, err = p.options.Server.Handle(path.Path(), p.handle)
	return err
}

// handle answers a query, in one item.
func (p *Publisher) handle(ctx context.Context, r *requestplane.Request, send func([]byte) error) error {
	var q kvevents.StateQuery
	if err := q.UnmarshalMsgpack(r.Payload); err != nil {
		return err
	}
	a, done, err := p.state.answer(ctx, &q)
	defer done()
	if err != nil {
		return err
	}
	p.log.Debug("kvstate: answering a query", "from", r.From, "rank", q.Rank, "start", q.Start.Value, "answer", a.Kind, "last", a.LastID)
	var item []byte
	if r.Codec == requestplane.Msgpack {
		item, err = a.MarshalMsgpack()
	} else {
		item, err = a.MarshalJSON()
	}
	if err != nil {
		return err
	}
	return send(item)
}

func answerError(format string, args ...any) kvevents.StateAnswer {
	return kvevents.StateAnswer{Kind: kvevents.AnswerError, Message: fmt.Sprintf(format, args...)}
}

// dumpFailed answers that no dump can be made, in the way that the router accepts.
func dumpFailed(q *kvevents.StateQuery, last uint64, err error) kvevents.StateAnswer {
	if !q.DumpFailed {
		return answerError("no dump can be made: %v", err)
	}
	return kvevents.StateAnswer{Kind: kvevents.AnswerTreeDumpFailed, LastID: last, Message: err.Error()}
}

// parts returns e, or several events of fewer blocks in its place. An event that cannot
// be encoded is returned as it is.
func parts(e *kvevents.Event) iter.Seq[*kvevents.Event] {
	return func(yield func(*kvevents.Event) bool) {
		n := len(e.Hashes)
		if n <= maxEventBlocks || e.Kind == kvevents.Stored && len(e.TokensHashes) != n || len(e.Media) != 0 && len(e.Media) != n {
			yield(e)
			return
		}
		part := *e
		for begin := 0; begin < n; begin += maxEventBlocks {
			end := min(begin+maxEventBlocks, n)
			part.Hashes = e.Hashes[begin:end]
			if len(e.TokensHashes) == n {
				part.TokensHashes = e.TokensHashes[begin:end]
			}
			if len(e.Media) > 0 {
				part.Media = e.Media[begin:end]
			}
			if begin > 0 && e.Kind == kvevents.Stored {
				part.Parent = kvevents.Some(e.Hashes[begin-1])
				part.StartPosition.Value += maxEventBlocks
			}
			if !yield(&part) {
				return
			}
		}
	}
}
