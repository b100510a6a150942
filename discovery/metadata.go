package discovery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
)

// Metadata is the document of all registrations of one worker. The zero value is
// empty and ready to use. It is not safe for concurrent use.
type Metadata struct {
	byID map[ID]Instance
}

// Add adds a registration, and replaces one with the same id.
func (m *Metadata) Add(in Instance) {
	if m.byID == nil {
		m.byID = map[ID]Instance{}
	}
	m.byID[in.ID()] = in
}

// Remove removes a registration, and reports whether it was present.
func (m *Metadata) Remove(id ID) bool {
	_, ok := m.byID[id]
	delete(m.byID, id)
	return ok
}

// Instances returns the registrations, ordered by ID.
func (m Metadata) Instances() []Instance {
	return slices.SortedFunc(maps.Values(m.byID), func(a, b Instance) int { return a.ID().Compare(b.ID()) })
}

// Filter returns the registrations that match q, ordered by ID. A query with a
// kind only returns all of that kind.
func (m Metadata) Filter(q Query) []Instance {
	return slices.DeleteFunc(m.Instances(), func(in Instance) bool { return !q.Match(in.ID()) })
}

// The fields of the document, by Dynamo's names. Each is a map from path to
// instance.
var metadataFields = map[Kind]string{
	KindEndpoint:     "endpoints",
	KindModel:        "model_cards",
	KindEventChannel: "event_channels",
	KindEventSource:  "event_sources",
}

// MarshalJSON writes Dynamo's document: for each kind a map from path, in the form
// of DynamoKey, to instance. Fields that this package does not define are written
// from the Raw of an instance.
func (m Metadata) MarshalJSON() ([]byte, error) {
	doc := map[string]map[string]json.RawMessage{}
	for _, field := range metadataFields {
		doc[field] = map[string]json.RawMessage{}
	}
	for id, in := range m.byID {
		path, err := DynamoKey(id, WireGen2)
		if err != nil {
			path = id.Path() // a slash in a name
		}
		raw, err := in.stored()
		if err != nil {
			return nil, err
		}
		doc[metadataFields[id.Kind]][path] = raw
	}
	return json.Marshal(doc)
}

// UnmarshalJSON parses the document of either generation. A map that is missing
// or null is empty. The path of an instance is ignored, since its JSON has all of
// its id, with one exception: API servers of Kubernetes keep numbers above 2^63-1
// as float64. An id that is rounded so is replaced by that in the path, also in
// Raw. The error joins those of the invalid instances, each with its path; the
// valid ones are added all the same.
func (m *Metadata) UnmarshalJSON(data []byte) error {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("discovery: metadata: %w", err)
	}
	*m = Metadata{}
	var errs []error
	for kind, field := range metadataFields {
		var byPath map[string]json.RawMessage
		if raw := doc[field]; raw != nil {
			if err := json.Unmarshal(raw, &byPath); err != nil {
				errs = append(errs, fmt.Errorf("discovery: metadata: %s: want a map from path to instance: %w", field, err))
			}
		}
		for path, raw := range byPath {
			var in Instance
			err := json.Unmarshal(exactID(kind, path, raw), &in)
			if err == nil {
				err = in.ID().Expect(kind)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("discovery: metadata: %s %.200q: %w", field, path, err))
				continue
			}
			m.Add(in)
		}
	}
	return errors.Join(errs...)
}

// exactID returns the JSON of an instance with the id in its path, if that in the
// JSON is the same one rounded to a float64, and otherwise raw.
func exactID(kind Kind, path string, raw json.RawMessage) json.RawMessage {
	id, err := ParseDynamoKey(kind, path)
	if err != nil || id.Instance <= math.MaxInt64 {
		return raw
	}
	name := "instance_id"
	if kind == KindEventSource {
		name = "publisher_id"
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return raw // the caller reports it
	}
	if rounded, err := json.Marshal(float64(id.Instance)); err != nil || !bytes.Equal(fields[name], rounded) {
		return raw
	}
	fields[name] = strconv.AppendUint(nil, id.Instance, 10)
	exact, err := json.Marshal(fields)
	if err != nil {
		return raw
	}
	return exact
}

// generation is a hash of the document.
func (m Metadata) generation() int64 {
	h := fnv.New64a()
	for _, in := range m.Instances() {
		_, _ = fmt.Fprintf(h, "%v %s %d ", in.ID().Kind, in.ID(), len(in.Raw))
		_, _ = h.Write(in.Raw)
	}
	return int64(h.Sum64() >> 1)
}

// Snapshot is the metadata of all workers at one time, by instance id. A publisher
// of events has an id of its own. If an event source under that id names its
// worker, the publisher's channels and sources are in the metadata of that
// worker; otherwise the publisher appears as a worker of its own.
type Snapshot struct {
	Instances map[uint64]Metadata `json:"instances"`

	// Generations maps the id of each worker to a hash of its metadata. Hashes
	// can be compared for equality only.
	Generations map[uint64]int64 `json:"generations"`

	// Sequence counts the snapshots of a client.
	Sequence uint64 `json:"sequence"`

	Timestamp time.Time `json:"timestamp"`
}

// HasChangesFrom reports whether workers were added, removed or changed since
// prev. It compares only the generations.
func (s Snapshot) HasChangesFrom(prev Snapshot) bool {
	return !maps.Equal(s.Generations, prev.Generations)
}

// Filter returns the registrations of all workers that match q, ordered by ID.
func (s Snapshot) Filter(q Query) []Instance {
	var out []Instance
	for _, m := range s.Instances {
		out = append(out, m.Filter(q)...)
	}
	slices.SortFunc(out, func(a, b Instance) int { return a.ID().Compare(b.ID()) })
	return out
}

// Snapshot lists the registrations of all kinds at one time.
func (c *Client) Snapshot(ctx context.Context) (Snapshot, error) {
	all, err := c.List(ctx, Query{Kind: KindAny})
	if err != nil {
		return Snapshot{}, err
	}
	s := Snapshot{
		Instances:   map[uint64]Metadata{},
		Generations: map[uint64]int64{},
		Sequence:    c.snapshots.Add(1),
		Timestamp:   time.Now(),
	}
	workers := map[uint64]uint64{} // by publisher
	for _, in := range all {
		if source, ok := in.Spec.(EventSource); ok {
			if worker, ok := source.worker(); ok {
				workers[in.InstanceID] = worker
			}
		}
	}
	for _, in := range all {
		id := in.InstanceID
		if worker, ok := workers[id]; ok && in.ID().Kind.HasTopic() {
			id = worker
		}
		m := s.Instances[id]
		m.Add(in)
		s.Instances[id] = m
	}
	for id, m := range s.Instances {
		s.Generations[id] = m.generation()
	}
	return s, nil
}
