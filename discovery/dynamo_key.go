package discovery

import (
	"fmt"
	"strings"
)

// The buckets of Dynamo's key-value stores (etcd, files).
const (
	dynamoEndpoints = "v1/instances"
	dynamoModels    = "v1/mdc"
	dynamoChannels  = "v1/event_channels"
	dynamoSources   = "v1/event_sources"
)

var dynamoBuckets = map[Kind]string{
	KindEndpoint:     dynamoEndpoints,
	KindModel:        dynamoModels,
	KindEventChannel: dynamoChannels,
	KindEventSource:  dynamoSources,
}

// DynamoBucket returns the bucket in which Dynamo's key-value stores keep a kind
// of registration, such as v1/instances.
func DynamoBucket(kind Kind) (string, error) {
	bucket, ok := dynamoBuckets[kind]
	if !ok {
		return "", fmt.Errorf("discovery: no bucket for kind %v", kind)
	}
	return bucket, nil
}

// DynamoKey returns the key of a registration inside its DynamoBucket. The keys of
// endpoints and models contain names as they are, so that a name with a slash is
// an error. Those of event channels and sources contain names as EncodeSegment
// writes them in WireGen2. In WireGen1 the key of a channel is ns/comp/topic/id
// with names as they are, and a channel of an endpoint is an error; sources,
// which that generation does not have, are written as in WireGen2. The error wraps
// [ErrUnstorable]; a store returns it from Register as it is, and the client adds
// the id and the name of this package.
//
//	ns/comp/ep/id[/suffix]
//	namespace/ns[/component/comp[/endpoint/ep]]/topic/topic/id
func DynamoKey(id ID, wire WireFormat) (string, error) {
	if err := id.validate(); err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnstorable, err)
	}
	hex := fmt.Sprintf("%x", id.Instance)
	last := id.Scope.Endpoint
	switch {
	case id.Kind == KindEventChannel && wire == WireGen1:
		if id.Scope.Endpoint != "" {
			return "", fmt.Errorf("%w: the scope of the channel is an endpoint, which WireGen1 does not have: want a component or namespace, or WireGen2 (DYN_EVENT_PLANE_WIRE)", ErrUnstorable)
		}
		last = id.Topic
	case id.Kind.HasTopic():
		return strings.Join(append(id.Scope.segments(), "topic", EncodeSegment(id.Topic), hex), "/"), nil
	}
	for _, name := range []string{id.Scope.Namespace, id.Scope.Component, last, id.Suffix} {
		if strings.Contains(name, "/") {
			return "", fmt.Errorf("%w: name %q: want one without a slash, which its keys cannot contain", ErrUnstorable, name)
		}
	}
	key := strings.Join([]string{id.Scope.Namespace, id.Scope.Component, last, hex}, "/")
	if id.Suffix != "" {
		key += "/" + id.Suffix
	}
	return key, nil
}

// ParseDynamoKey parses a key of either generation. The older one writes
// ns/comp/topic/id for event channels, with names as they are and an empty comp
// for the scope of a namespace.
func ParseDynamoKey(kind Kind, key string) (ID, error) {
	id, err := parseDynamoKey(kind, strings.Split(key, "/"))
	if err == nil {
		err = id.validate()
	}
	if err != nil {
		return ID{}, fmt.Errorf("discovery: key %.200q of kind %v: %w", key, kind, err)
	}
	return id, nil
}

func parseDynamoKey(kind Kind, parts []string) (ID, error) {
	raw := func(part string) (string, error) { return part, nil }
	switch {
	case kind == KindEndpoint:
		return parseFlat(kind, parts, 4, raw)
	case kind == KindModel:
		return parseFlat(kind, parts, 5, raw)
	case !kind.HasTopic():
		return ID{}, fmt.Errorf("unknown kind %v", kind)
	case len(parts) == 4:
		return parseChannel(kind, parts, raw)
	}
	return parseChannel(kind, parts, DecodeSegment)
}

// DynamoPrefix returns the common prefix of the keys that a query matches, in
// both generations, or "" if they have none.
func DynamoPrefix(q Query) string {
	if q.Kind.HasTopic() || q.Scope.Namespace == "" {
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
