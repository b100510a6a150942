package discovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
)

// Instance is a registration: a spec under an instance id.
type Instance struct {
	InstanceID uint64
	Spec       Spec

	// Raw is the JSON that the instance was parsed from, including fields that
	// this version of the package does not define. It is nil on an instance that
	// the program made, and MarshalJSON ignores it. A model's Card and a source's
	// Metadata share its memory; modify none of them.
	//
	// RegisterInstance and Metadata write Raw as it is, unless the program has
	// changed InstanceID or Spec: then they write Raw with the fields that differ
	// replaced.
	Raw json.RawMessage
}

// ID returns the id of the registration. It is the zero ID if Spec is nil, as
// on the Instance of a Synced event.
func (i Instance) ID() ID {
	if i.Spec == nil {
		return ID{}
	}
	return i.Spec.ID(i.InstanceID)
}

// stored returns the JSON that a store keeps of the instance.
func (i Instance) stored() (json.RawMessage, error) {
	if i.Raw == nil {
		return json.Marshal(i)
	}
	was, err := decodeInstance(i.Raw)
	if err != nil {
		return nil, fmt.Errorf("field Raw: want the JSON that the instance was read from, or nil: %w", err)
	}
	if was.InstanceID == i.InstanceID && reflect.DeepEqual(was.Spec, i.Spec) {
		return i.Raw, nil
	}
	return i.merged(was)
}

// merged returns the Raw of was, with the fields replaced whose JSON differs
// between was and i. The others stay as they are: those that the package does not
// define, and what others have written within those that it does.
func (i Instance) merged(was Instance) (json.RawMessage, error) {
	var out, before, after map[string]json.RawMessage
	if err := json.Unmarshal(was.Raw, &out); err != nil {
		return nil, err
	}
	for _, of := range []struct {
		instance Instance
		fields   *map[string]json.RawMessage
	}{{was, &before}, {i, &after}} {
		data, err := json.Marshal(of.instance)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, of.fields); err != nil {
			return nil, err
		}
	}
	changed := false
	for _, name := range instanceFields {
		if bytes.Equal(before[name], after[name]) {
			continue
		}
		changed = true
		maps.DeleteFunc(out, func(other string, _ json.RawMessage) bool { return strings.EqualFold(other, name) })
		if value, ok := after[name]; ok {
			out[name] = value
		}
	}
	if !changed {
		return was.Raw, nil
	}
	return json.Marshal(out)
}

// DecodeCard decodes the card of a model into v. On an instance of another
// kind the error wraps ErrKind and names that kind.
func (i Instance) DecodeCard(v any) error {
	model, ok := i.Spec.(Model)
	if !ok {
		return i.ID().Expect(KindModel)
	}
	if err := json.Unmarshal(model.Card, v); err != nil {
		return fmt.Errorf("discovery: card of model %s: %w", i.ID(), err)
	}
	return nil
}

// The JSON of an instance in both generations of Dynamo: on an event channel the
// older has namespace and component, the newer has scope. Instances are written
// with all three and read with either.
type (
	endpointJSON struct {
		Type       string           `json:"type"`
		Component  string           `json:"component"`
		Endpoint   string           `json:"endpoint"`
		Namespace  string           `json:"namespace"`
		InstanceID uint64           `json:"instance_id"`
		Transport  RequestTransport `json:"transport"`
		Device     string           `json:"device_type,omitempty"`
		Codec      string           `json:"request_plane_codec,omitempty"`
	}
	modelJSON struct {
		Type       string          `json:"type"`
		Namespace  string          `json:"namespace"`
		Component  string          `json:"component"`
		Endpoint   string          `json:"endpoint"`
		InstanceID uint64          `json:"instance_id"`
		Card       json.RawMessage `json:"card_json"`
		Suffix     string          `json:"model_suffix,omitempty"`
	}
	channelJSON struct {
		Type       string          `json:"type"`
		Namespace  string          `json:"namespace"`
		Component  string          `json:"component"`
		Scope      *Scope          `json:"scope"`
		Topic      string          `json:"topic"`
		InstanceID uint64          `json:"instance_id"`
		Transport  json.RawMessage `json:"transport"`
	}
	sourceJSON struct {
		Type      string          `json:"type"`
		Scope     *Scope          `json:"scope"`
		Topic     string          `json:"topic"`
		Publisher uint64          `json:"publisher_id"`
		Metadata  json.RawMessage `json:"metadata"`
	}
)

// MarshalJSON writes the JSON of Dynamo's discovery instances.
func (i Instance) MarshalJSON() ([]byte, error) {
	switch s := i.Spec.(type) {
	case Endpoint:
		return json.Marshal(endpointJSON{
			KindEndpoint.String(), s.Scope.Component, s.Scope.Endpoint, s.Scope.Namespace,
			i.InstanceID, s.Transport, s.Device, s.RequestCodec,
		})
	case Model:
		return json.Marshal(modelJSON{
			KindModel.String(), s.Scope.Namespace, s.Scope.Component, s.Scope.Endpoint,
			i.InstanceID, s.Card, s.Suffix,
		})
	case EventChannel:
		transport, err := json.Marshal(s.Transport)
		if err != nil {
			return nil, err
		}
		return json.Marshal(channelJSON{
			KindEventChannel.String(), s.Scope.Namespace, s.Scope.Component, &s.Scope,
			s.Topic, i.InstanceID, transport,
		})
	case EventSource:
		return json.Marshal(sourceJSON{KindEventSource.String(), &s.Scope, s.Topic, i.InstanceID, s.Metadata})
	}
	return nil, fmt.Errorf("spec of type %T: want Endpoint, Model, EventChannel or EventSource", i.Spec)
}

// UnmarshalJSON parses the JSON of both generations of Dynamo. The error names
// the field that is missing or wrong.
func (i *Instance) UnmarshalJSON(data []byte) error {
	in, err := decodeInstance(bytes.Clone(data))
	if err != nil {
		return err
	}
	*i = in
	return nil
}

// decodeAny is decodeInstance by encoding/json alone.
func decodeAny(data []byte) (Instance, error) {
	var tag struct {
		Type       string  `json:"type"`
		InstanceID *uint64 `json:"instance_id"`
		Publisher  *uint64 `json:"publisher_id"`
	}
	if err := json.Unmarshal(data, &tag); err != nil {
		return Instance{}, fmt.Errorf("discovery: instance: %w", err)
	}
	kind, err := parseKind(tag.Type)
	if err != nil {
		return Instance{}, fmt.Errorf("discovery: instance: %w", err)
	}
	name := "instance_id"
	if kind == KindEventSource {
		name, tag.InstanceID = "publisher_id", tag.Publisher
	}
	if tag.InstanceID == nil {
		return Instance{}, fmt.Errorf("discovery: instance of type %v has no %s", kind, name)
	}
	spec, err := unmarshalSpec(kind, data)
	if err == nil {
		err = spec.ID(*tag.InstanceID).validate()
	}
	if err != nil {
		return Instance{}, fmt.Errorf("discovery: instance of type %v: %w", kind, err)
	}
	return Instance{InstanceID: *tag.InstanceID, Spec: spec, Raw: data}, nil
}

func unmarshalSpec(kind Kind, data []byte) (Spec, error) {
	switch kind {
	case KindEndpoint:
		return unmarshalEndpoint(data)
	case KindModel:
		return unmarshalModel(data)
	case KindEventSource:
		return unmarshalSource(data)
	default:
		return unmarshalChannel(data)
	}
}

func unmarshalEndpoint(data []byte) (Spec, error) {
	var j endpointJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, err
	}
	if j.Transport.Kind == "" && j.Transport.Raw == nil {
		return nil, errors.New("no transport")
	}
	return Endpoint{
		Scope: Scope{j.Namespace, j.Component, j.Endpoint}, Transport: j.Transport,
		Device: j.Device, RequestCodec: j.Codec,
	}, nil
}

func unmarshalModel(data []byte) (Spec, error) {
	var j modelJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, err
	}
	if j.Card == nil {
		return nil, errors.New("no card_json")
	}
	// A card can be large, so it shares the bytes of Raw.
	if at := bytes.Index(data, j.Card); at >= 0 {
		j.Card = data[at : at+len(j.Card) : at+len(j.Card)]
	}
	return Model{Scope: Scope{j.Namespace, j.Component, j.Endpoint}, Card: j.Card, Suffix: j.Suffix}, nil
}

func unmarshalChannel(data []byte) (Spec, error) {
	var j channelJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, err
	}
	if j.Transport == nil {
		return nil, errors.New("no transport")
	}
	transport, err := unmarshalTransport(j.Transport)
	if err != nil {
		return nil, err
	}
	scope := Scope{Namespace: j.Namespace, Component: j.Component}
	if j.Scope != nil {
		scope = *j.Scope
	}
	return EventChannel{Scope: scope, Topic: j.Topic, Transport: transport}, nil
}

func unmarshalSource(data []byte) (Spec, error) {
	var j sourceJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, err
	}
	if j.Scope == nil || j.Metadata == nil {
		return nil, errors.New("no scope or no metadata")
	}
	return EventSource{Scope: *j.Scope, Topic: j.Topic, Metadata: j.Metadata}, nil
}
