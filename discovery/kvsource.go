package discovery

import (
	"encoding/json"
	"errors"
)

// KVSource is the metadata of the [EventSource] of a publisher of kv-events. The
// format is that of KvEventSource in lib/llm/src/discovery/kv_source_membership.rs
// of Dynamo 1.6.
type KVSource struct {
	// Endpoint is the scope of the events, with all three parts.
	Endpoint Scope

	// WorkerID is the instance id of the worker's endpoint and model, and Rank
	// its data-parallel rank.
	WorkerID uint64
	Rank     uint32

	// PublisherID is the id under which channel and source are registered.
	PublisherID uint64

	// RecoveryTarget is the instance, as JSON, that a router can request past
	// events from; nil if there is none.
	RecoveryTarget json.RawMessage
}

type kvSourceJSON struct {
	Endpoint       *scopeEndpointJSON `json:"kv_state_endpoint"`
	Worker         kvWorkerJSON       `json:"worker"`
	PublisherID    uint64             `json:"publisher_id"`
	RecoveryTarget json.RawMessage    `json:"recovery_target,omitempty"`
}

type kvWorkerJSON struct {
	WorkerID uint64 `json:"worker_id"`
	Rank     uint32 `json:"dp_rank"`
}

// MarshalJSON writes Dynamo's form.
func (s KVSource) MarshalJSON() ([]byte, error) {
	return json.Marshal(kvSourceJSON{
		&scopeEndpointJSON{s.Endpoint.Namespace, s.Endpoint.Component, s.Endpoint.Endpoint},
		kvWorkerJSON{s.WorkerID, s.Rank}, s.PublisherID, s.RecoveryTarget,
	})
}

// UnmarshalJSON parses Dynamo's form.
func (s *KVSource) UnmarshalJSON(data []byte) error {
	var j kvSourceJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	if j.Endpoint == nil {
		return errors.New("discovery: metadata of a source: no kv_state_endpoint")
	}
	*s = KVSource{
		Scope{j.Endpoint.Namespace, j.Endpoint.Component, j.Endpoint.Name},
		j.Worker.WorkerID, j.Worker.Rank, j.PublisherID, j.RecoveryTarget,
	}
	return nil
}
