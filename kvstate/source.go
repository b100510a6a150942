package kvstate

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/requestplane"
)

// topicKVEvents is Dynamo's topic of KV-cache events.
const topicKVEvents = "kv-events"

// queryEndpoint1 begins the names of the endpoints of Dynamo up to 1.3 that answer
// state queries; the rank follows.
const queryEndpoint1 = "worker_kv_indexer_query_dp"

// rankKey identifies one rank of one worker.
type rankKey struct {
	worker uint64
	rank   uint32
}

// source is a registration that announces a rank.
type source struct {
	id        discovery.ID
	key       rankKey
	publisher uint64 // of its events, or 0 if it is not registered
	target    target
}

// target is where the state of a rank is requested.
type target struct {
	address requestplane.Address
	codec   requestplane.Codec
	missing string // why there is no target, or empty
}

// sourcesOf returns the query for the registrations that announce the ranks of a
// scope. Workers of Dynamo 1.4 and later register a source for an endpoint; earlier
// ones publish in their component, where they register an endpoint for queries.
func sourcesOf(scope discovery.Scope) discovery.Query {
	if scope.Endpoint == "" {
		return discovery.Query{Kind: discovery.KindEndpoint, Scope: scope}
	}
	return discovery.Query{Kind: discovery.KindEventSource, Scope: scope, Topic: topicKVEvents, Exact: true}
}

// parseSource returns the source of a registration, and false without an error if it
// does not announce a rank.
func parseSource(in discovery.Instance) (source, bool, error) {
	switch spec := in.Spec.(type) {
	case discovery.Endpoint:
		digits, ok := strings.CutPrefix(spec.Scope.Endpoint, queryEndpoint1)
		if rank, err := strconv.ParseUint(digits, 10, 32); ok && err == nil {
			key := rankKey{in.InstanceID, uint32(rank)}
			return source{in.ID(), key, 0, newTarget(spec.Transport, spec.RequestCodec)}, true, nil
		}
	case discovery.EventSource:
		var kv discovery.KVSource
		if err := json.Unmarshal(spec.Metadata, &kv); err != nil {
			return source{}, false, err
		}
		if kv.PublisherID != in.InstanceID {
			return source{}, false, fmt.Errorf("publisher_id %x: want that of the registration, %x", kv.PublisherID, in.InstanceID)
		}
		return source{in.ID(), rankKey{kv.WorkerID, kv.Rank}, kv.PublisherID, parseTarget(kv.RecoveryTarget)}, true, nil
	}
	return source{}, false, nil
}

func parseTarget(raw json.RawMessage) target {
	if len(raw) == 0 || string(raw) == "null" {
		return target{missing: "live only: the worker announces no endpoint for queries"}
	}
	var t struct {
		Transport discovery.RequestTransport `json:"transport"`
		Codec     string                     `json:"request_plane_codec"`
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return target{missing: "live only: the endpoint for queries is invalid: " + clip(err.Error())}
	}
	return newTarget(t.Transport, t.Codec)
}

func newTarget(transport discovery.RequestTransport, codec string) target {
	if transport.Kind != discovery.RequestTCP {
		return target{missing: fmt.Sprintf("live only: queries over %q: want tcp", clip(transport.Kind))}
	}
	address, err := requestplane.ParseAddress(transport.Address)
	if err != nil {
		return target{missing: "live only: " + clip(err.Error())}
	}
	c, err := requestplane.ParseCodec(codec)
	if err != nil {
		return target{missing: "live only: " + clip(err.Error())}
	}
	return target{address: address, codec: c}
}

// clip bounds a text that may quote untrusted input.
func clip(text string) string {
	const most = 256
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
