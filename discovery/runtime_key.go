package discovery

import (
	"fmt"
	"strings"
)

// The buckets of the runtime's key-value backends (etcd, files).
const (
	runtimeEndpoints = "v1/instances"
	runtimeModels    = "v1/mdc"
	runtimeChannels  = "v1/event_channels"
	runtimeSources   = "v1/event_sources"
)

var runtimeBuckets = map[Kind]string{
	KindEndpoint:     runtimeEndpoints,
	KindModel:        runtimeModels,
	KindEventChannel: runtimeChannels,
	KindEventSource:  runtimeSources,
}

// RuntimeBucket returns the bucket in which the runtime's key-value backends
// keep a kind of registration, such as v1/instances.
func RuntimeBucket(kind Kind) (string, error) {
	bucket, ok := runtimeBuckets[kind]
	if !ok {
		return "", fmt.Errorf("discovery: no bucket for kind %v", kind)
	}
	return bucket, nil
}

// RuntimeKey returns the key of a registration inside its RuntimeBucket, as the
// newer generation of the runtime writes it: names stand raw in the keys of
// endpoints and models, so one with a slash is an error, and escaped as
// EncodeSegment does in those of event channels and sources.
//
//	ns/comp/ep/id[/suffix]
//	namespace/ns[/component/comp[/endpoint/ep]]/topic/topic/id
func RuntimeKey(id ID) (string, error) {
	if err := id.validate(); err != nil {
		return "", fmt.Errorf("discovery: %w", err)
	}
	hex := fmt.Sprintf("%x", id.Instance)
	if id.hasTopic() {
		return strings.Join(append(id.Scope.segments(), "topic", EncodeSegment(id.Topic), hex), "/"), nil
	}
	for _, name := range []string{id.Scope.Namespace, id.Scope.Component, id.Scope.Endpoint, id.Suffix} {
		if strings.Contains(name, "/") {
			return "", fmt.Errorf("discovery: name %q of %v %s: want none with a slash, which this backend's keys cannot hold", name, id.Kind, id)
		}
	}
	key := strings.Join([]string{id.Scope.Namespace, id.Scope.Component, id.Scope.Endpoint, hex}, "/")
	if id.Suffix != "" {
		key += "/" + id.Suffix
	}
	return key, nil
}

// ParseRuntimeKey reads a key of either generation; the older one writes
// ns/comp/topic/id for event channels, with names raw and an empty comp in the
// scope of a namespace.
func ParseRuntimeKey(kind Kind, key string) (ID, error) {
	id, err := parseRuntimeKey(kind, strings.Split(key, "/"))
	if err == nil {
		err = id.validate()
	}
	if err != nil {
		return ID{}, fmt.Errorf("discovery: key %.200q of kind %v: %w", key, kind, err)
	}
	return id, nil
}

func parseRuntimeKey(kind Kind, parts []string) (ID, error) {
	raw := func(part string) (string, error) { return part, nil }
	switch {
	case kind == KindEndpoint:
		return parseFlat(kind, parts, 4, raw)
	case kind == KindModel:
		return parseFlat(kind, parts, 5, raw)
	case !(ID{Kind: kind}).hasTopic():
		return ID{}, fmt.Errorf("unknown kind %v", kind)
	case len(parts) == 4:
		return parseChannel(kind, parts, raw)
	}
	return parseChannel(kind, parts, DecodeSegment)
}

// RuntimePrefix returns what the keys of all that a query finds begin with, in
// either generation where one prefix can say that, else "".
func RuntimePrefix(q Query) string {
	if (ID{Kind: q.Kind}).hasTopic() || q.Scope.Namespace == "" {
		return ""
	}
	prefix := q.Scope.Namespace + "/"
	if q.Scope.Component == "" {
		return prefix
	}
	prefix += q.Scope.Component + "/"
	if q.Scope.Endpoint == "" {
		return prefix
	}
	return prefix + q.Scope.Endpoint + "/"
}
