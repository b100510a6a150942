package discovery

import (
	"encoding/json"
	"fmt"
)

// Spec is a registration without its instance id: an [Endpoint], a [Model], an
// [EventChannel] or an [EventSource]. With an id it is an [Instance].
type Spec interface {
	// ID returns the id of the registration under an instance id.
	ID(instance uint64) ID

	validate() error
}

// The values of Endpoint.Device.
const (
	DeviceCPU  = "cpu"
	DeviceCUDA = "cuda"
)

// Endpoint is an address that accepts requests.
type Endpoint struct {
	Scope     Scope // all three parts
	Transport RequestTransport

	// Device is DeviceCPU, DeviceCUDA or empty.
	Device string

	// RequestCodec names the codec of the request plane, such as "msgpack";
	// empty on workers that support only JSON.
	RequestCodec string
}

// ID implements Spec.
func (e Endpoint) ID(instance uint64) ID {
	return ID{Kind: KindEndpoint, Scope: e.Scope, Instance: instance}
}

func (e Endpoint) validate() error {
	if e.Transport.Kind == "" && e.Transport.Raw == nil {
		return fmt.Errorf("endpoint %s has no transport: want TCP(address) or NATSTCP(address)", e.Scope)
	}
	if e.Device != "" && e.Device != DeviceCPU && e.Device != DeviceCUDA {
		return fmt.Errorf("endpoint %s: device %q: want %s, %s or none", e.Scope, e.Device, DeviceCPU, DeviceCUDA)
	}
	return nil
}

// Model is the card of a model that an endpoint serves, as JSON. A worker
// registers a LoRA adapter under the scope of its base model with a suffix.
type Model struct {
	Scope  Scope // all three parts
	Card   json.RawMessage
	Suffix string
}

// NewModel returns a Model whose card is the JSON encoding of a value, such as a
// [ModelCard].
func NewModel(scope Scope, card any, suffix string) (Model, error) {
	data, err := json.Marshal(card)
	if err != nil {
		return Model{}, fmt.Errorf("discovery: card of model at %s: %w", scope, err)
	}
	return Model{Scope: scope, Card: data, Suffix: suffix}, nil
}

// ID implements Spec.
func (m Model) ID(instance uint64) ID {
	return ID{Kind: KindModel, Scope: m.Scope, Suffix: m.Suffix, Instance: instance}
}

func (m Model) validate() error {
	_, err := m.identity()
	return err
}

// EventChannel announces where subscribers receive the events of a topic.
type EventChannel struct {
	Scope     Scope // one part or more
	Topic     string
	Transport Transport
}

// ID implements Spec.
func (c EventChannel) ID(instance uint64) ID {
	return ID{Kind: KindEventChannel, Scope: c.Scope, Topic: c.Topic, Instance: instance}
}

func (c EventChannel) validate() error {
	if c.Transport == nil {
		return fmt.Errorf("channel %s of %s has no transport: want NATS, ZMQ or ZMQBroker", c.Topic, c.Scope)
	}
	return nil
}

// EventSource describes the worker whose state a publisher's events describe, and
// where that state can be recovered from. Dynamo's newer generation registers one
// beside the channel, under the id of the publisher.
type EventSource struct {
	Scope Scope // one part or more
	Topic string

	// Metadata is a JSON object that Dynamo defines, such as that of a [KVSource],
	// kept as it is.
	Metadata json.RawMessage
}

// ID implements Spec.
func (s EventSource) ID(publisher uint64) ID {
	return ID{Kind: KindEventSource, Scope: s.Scope, Topic: s.Topic, Instance: publisher}
}

// worker returns the id of the worker that the metadata names. The format of the
// metadata is Dynamo's.
func (s EventSource) worker() (id uint64, ok bool) {
	var metadata struct {
		Worker *struct {
			ID *uint64 `json:"worker_id"`
		} `json:"worker"`
	}
	if json.Unmarshal(s.Metadata, &metadata) != nil || metadata.Worker == nil || metadata.Worker.ID == nil {
		return 0, false
	}
	return *metadata.Worker.ID, true
}

func (s EventSource) validate() error {
	if !json.Valid(s.Metadata) {
		return fmt.Errorf("source of %s in %s: metadata %.100q: want JSON", s.Topic, s.Scope, s.Metadata)
	}
	return nil
}
