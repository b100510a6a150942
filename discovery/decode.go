package discovery

import (
	"slices"
	"strconv"
)

// decodeInstance parses the JSON of an instance. It keeps data as the Raw of the
// instance, so the caller must not modify it afterwards.
//
// Every process that watches a store decodes each of its entries. An instance in
// the form that its writers use is therefore decoded in one pass, without
// reflection. All others, including invalid ones, are decoded by encoding/json,
// whose rules for null, for duplicate names and for their case apply, and whose
// errors name the field.
func decodeInstance(data []byte) (Instance, error) {
	if in, ok := decodePlain(data); ok {
		return in, nil
	}
	return decodeAny(data)
}

// The fields of the instances of all kinds, as indexes.
const (
	fieldType = iota
	fieldInstanceID
	fieldPublisherID
	fieldNamespace
	fieldComponent
	fieldEndpoint
	fieldTransport
	fieldDevice
	fieldCodec
	fieldCard
	fieldSuffix
	fieldScope
	fieldTopic
	fieldMetadata
	fieldCount
)

var instanceFields = [fieldCount]string{
	"type", "instance_id", "publisher_id", "namespace", "component", "endpoint", "transport", "device_type",
	"request_plane_codec", "card_json", "model_suffix", "scope", "topic", "metadata",
}

// decodePlain reports false for an instance that decodeAny has to decode. If it
// reports true, decodeAny returns the same instance without an error.
func decodePlain(data []byte) (Instance, bool) {
	var r plainReader
	var f [fieldCount][]byte
	if _, ok := scanObject(data, instanceFields[:], f[:]); !ok {
		return Instance{}, false
	}
	// Both ids must be numbers where they are present.
	kind, id, publisher := r.kind(f[fieldType]), r.uint(f[fieldInstanceID]), r.uint(f[fieldPublisherID])
	own := f[fieldInstanceID]
	if kind == KindEventSource {
		id, own = publisher, f[fieldPublisherID]
	}
	if own == nil || r.other {
		return Instance{}, false
	}
	spec := r.spec(kind, &f)
	if r.other || spec.ID(id).validate() != nil {
		return Instance{}, false
	}
	return Instance{InstanceID: id, Spec: spec, Raw: data}, true
}

// plainReader reads values of JSON that a scanner has found. Its other field is
// set once a value has a form that encoding/json has to decode; results are
// meaningless from then on.
type plainReader struct{ other bool }

// spec returns a nil Spec only if other is set.
func (r *plainReader) spec(kind Kind, f *[fieldCount][]byte) Spec {
	switch kind {
	case KindEndpoint:
		return Endpoint{
			Scope:     Scope{r.text(f[fieldNamespace]), r.text(f[fieldComponent]), r.text(f[fieldEndpoint])},
			Transport: r.requestTransport(f[fieldTransport]),
			Device:    r.text(f[fieldDevice]), RequestCodec: r.text(f[fieldCodec]),
		}
	case KindModel:
		return Model{
			Scope: Scope{r.text(f[fieldNamespace]), r.text(f[fieldComponent]), r.text(f[fieldEndpoint])},
			Card:  r.present(f[fieldCard]), Suffix: r.text(f[fieldSuffix]),
		}
	case KindEventChannel:
		c := EventChannel{
			Scope: Scope{Namespace: r.text(f[fieldNamespace]), Component: r.text(f[fieldComponent])},
			Topic: r.text(f[fieldTopic]), Transport: r.transport(f[fieldTransport]),
		}
		if f[fieldScope] != nil {
			c.Scope = r.scope(f[fieldScope])
		}
		return c
	default:
		return EventSource{
			Scope: r.scope(f[fieldScope]), Topic: r.text(f[fieldTopic]), Metadata: r.present(f[fieldMetadata]),
		}
	}
}

// present returns a value that must be there.
func (r *plainReader) present(value []byte) []byte {
	r.other = r.other || value == nil
	return value
}

// unquote returns the bytes between the quotes of a string.
func (r *plainReader) unquote(value []byte) []byte {
	if len(value) < 2 || value[0] != '"' || !isPlainText(value) {
		r.other = true
		return nil
	}
	return value[1 : len(value)-1]
}

// text returns "" for a string that is absent.
func (r *plainReader) text(value []byte) string {
	if value == nil || string(value) == "null" {
		return ""
	}
	return string(r.unquote(value))
}

func (r *plainReader) kind(value []byte) Kind {
	kind := slices.Index(kindNames[1:], string(r.unquote(value))) + 1
	r.other = r.other || kind == 0
	return Kind(kind)
}

// uint returns 0 for a number that is absent.
func (r *plainReader) uint(value []byte) uint64 {
	if value == nil {
		return 0
	}
	n, err := strconv.ParseUint(string(value), 10, 64)
	r.other = r.other || err != nil
	return n
}

// fields returns the values of an object's fields, in the order of names, and
// the number of all its fields.
func (r *plainReader) fields(object []byte, names ...string) (values [5][]byte, count int) {
	count, ok := scanObject(object, names, values[:len(names)])
	r.other = r.other || !ok
	return values, count
}

func (r *plainReader) requestTransport(value []byte) RequestTransport {
	f, count := r.fields(value, RequestTCP, RequestNATSTCP)
	switch {
	case count != 1:
		r.other = true
	case f[0] != nil:
		return RequestTransport{Kind: RequestTCP, Address: string(r.unquote(f[0]))}
	}
	return RequestTransport{Kind: RequestNATSTCP, Address: string(r.unquote(f[1]))}
}

func (r *plainReader) transport(value []byte) Transport {
	f, _ := r.fields(value, "kind", "config")
	switch kind, config := string(r.unquote(f[0])), f[1]; kind {
	case "Nats":
		f, _ = r.fields(config, "subject_prefix")
		return NATS{r.text(f[0])}
	case "Zmq":
		f, _ = r.fields(config, "endpoint", "replay_endpoint")
		return ZMQ{Endpoint: r.text(f[0]), ReplayEndpoint: r.text(f[1])}
	}
	if r.other {
		return nil
	}
	// Brokers, which are few, and transports that are not defined.
	t, err := unmarshalTransport(value)
	r.other = err != nil
	return t
}

func (r *plainReader) scope(value []byte) Scope {
	f, _ := r.fields(value, "kind", "name", "namespace", "component", "endpoint")
	kind, name, namespace, component := r.unquote(f[0]), r.text(f[1]), r.text(f[2]), r.text(f[3])
	switch {
	case string(kind) == "endpoint":
		f, _ = r.fields(f[4], "namespace", "component", "name")
		return Scope{r.text(f[0]), r.text(f[1]), r.text(f[2])}
	case string(kind) == "component" && f[4] == nil:
		return Scope{Namespace: namespace, Component: component}
	case string(kind) == "namespace" && f[4] == nil:
		return Scope{Namespace: name}
	}
	r.other = true
	return Scope{}
}
