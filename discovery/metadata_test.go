package discovery_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
)

const sourceDoc = `{"type":"EventSource","scope":{"kind":"endpoint","endpoint":{"namespace":"dynamo","component":"backend","name":"generate"}},` +
	`"topic":"kv-events","publisher_id":8051026481054291,"metadata":{"worker":{"worker_id":42,"dp_rank":0},"publisher_id":8051026481054291}}`

func TestEventSource(t *testing.T) {
	t.Parallel()
	var in discovery.Instance
	if err := json.Unmarshal([]byte(sourceDoc), &in); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(in)
	if err != nil || string(out) != sourceDoc {
		t.Errorf("written %s (%v), want %s", out, err, sourceDoc)
	}
	const path = "namespace/dynamo/component/backend/endpoint/generate/topic/kv-events/1c9a5dad7b0253"
	if got := in.ID().Path(); got != path {
		t.Errorf("path %q, want %q", got, path)
	}
	if id, err := discovery.ParseID(discovery.KindEventSource, path); err != nil || id != in.ID() {
		t.Errorf("parsed %+v, %v", id, err)
	}
	tagged, err := json.Marshal(in.ID())
	if err != nil {
		t.Fatal(err)
	}
	var back discovery.ID
	if err := json.Unmarshal(tagged, &back); err != nil || back != in.ID() {
		t.Errorf("%s read as %+v, %v", tagged, back, err)
	}
	for _, bad := range []string{
		strings.Replace(sourceDoc, "publisher_id", "instance_id", 1),
		`{"type":"EventSource","topic":"t","publisher_id":1,"metadata":{}}`,
		`{"type":"EventSource","scope":{"kind":"namespace","name":"ns"},"topic":"t","publisher_id":1}`,
	} {
		if err := json.Unmarshal([]byte(bad), &in); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func TestEventSourceNeverChanges(t *testing.T) {
	t.Parallel()
	registry := memory.New()
	a := discovery.NewClient(registry.Open(), discovery.Options{})
	b := discovery.NewClient(registry.Open(), discovery.Options{})
	source := discovery.EventSource{Scope: discovery.Scope{Namespace: "ns"}, Topic: "t", Metadata: json.RawMessage(`{"a":1,"b":2}`)}
	register := func(c *discovery.Client, metadata string) error {
		source.Metadata = json.RawMessage(metadata)
		_, err := c.RegisterAs(t.Context(), 7, source)
		return err
	}
	if err := errors.Join(register(a, `{"a":1,"b":2}`), register(b, `{"b":2, "a":1}`)); err != nil {
		t.Errorf("the same source again: %v", err)
	}
	if err := register(b, `{"a":1,"b":3}`); !errors.Is(err, discovery.ErrSourceConflict) {
		t.Errorf("another source under the same id: %v, want ErrSourceConflict", err)
	}
}

func TestDynamoKeys(t *testing.T) {
	t.Parallel()
	ep := discovery.Scope{Namespace: "ns.one", Component: "worker", Endpoint: "generate"}
	for _, c := range []struct {
		id     discovery.ID
		bucket string
		key    string
		older  string // the form of the older generation, if there is one
	}{
		{discovery.Endpoint{Scope: ep}.ID(42), "v1/instances", "ns.one/worker/generate/2a", ""},
		{discovery.Model{Scope: ep}.ID(42), "v1/mdc", "ns.one/worker/generate/2a", ""},
		{discovery.Model{Scope: ep, Suffix: "my-lora"}.ID(42), "v1/mdc", "ns.one/worker/generate/2a/my-lora", ""},
		{discovery.EventChannel{Scope: discovery.Scope{Namespace: "ns.one"}, Topic: "t"}.ID(42), "v1/event_channels", "namespace/ns%2Eone/topic/t/2a", "ns.one//t/2a"},
		{discovery.EventChannel{Scope: discovery.Scope{Namespace: "dynamo", Component: "worker/*"}, Topic: "kv.events"}.ID(42), "v1/event_channels", "namespace/dynamo/component/worker%2F%2A/topic/kv%2Eevents/2a", ""},
		{discovery.EventChannel{Scope: discovery.Scope{Namespace: "dynamo", Component: "backend"}, Topic: "t"}.ID(42), "v1/event_channels", "namespace/dynamo/component/backend/topic/t/2a", "dynamo/backend/t/2a"},
		{discovery.EventSource{Scope: ep, Topic: "t"}.ID(42), "v1/event_sources", "namespace/ns%2Eone/component/worker/endpoint/generate/topic/t/2a", ""},
	} {
		bucket, err := discovery.DynamoBucket(c.id.Kind)
		if err != nil || bucket != c.bucket {
			t.Errorf("bucket of %v: %q, %v", c.id, bucket, err)
		}
		key, err := discovery.DynamoKey(c.id, discovery.WireGen2)
		if err != nil || key != c.key {
			t.Errorf("key of %v: %q, %v, want %q", c.id, key, err, c.key)
		}
		key, err = discovery.DynamoKey(c.id, discovery.WireGen1)
		if want := cmp.Or(c.older, c.key); c.id.Kind == discovery.KindEventChannel && c.older == "" {
			if err == nil { // of an endpoint, or with a slash in a name
				t.Errorf("%v has the key %q in gen1, which cannot express it", c.id, key)
			}
		} else if err != nil || key != want {
			t.Errorf("key of %v in gen1: %q, %v, want %q", c.id, key, err, want)
		}
		for _, key := range []string{c.key, c.older} {
			if id, err := discovery.ParseDynamoKey(c.id.Kind, key); key != "" && (err != nil || id != c.id) {
				t.Errorf("key %q read as %+v, %v, want %+v", key, id, err, c.id)
			}
		}
	}
	for _, key := range []string{"", "a/b/c", "a/b/c/zz", "a/b/c/0x2a", "a/b/c/d/e/f", "namespace/a/topic/%zz/2a"} {
		for _, kind := range []discovery.Kind{discovery.KindEndpoint, discovery.KindModel, discovery.KindEventChannel} {
			if id, err := discovery.ParseDynamoKey(kind, key); err == nil {
				t.Errorf("key %q of kind %v read as %v", key, kind, id)
			}
		}
	}
	if key, err := discovery.DynamoKey(discovery.Endpoint{Scope: discovery.Scope{Namespace: "a/b", Component: "c", Endpoint: "d"}}.ID(1), discovery.WireGen2); err == nil {
		t.Errorf("a slash in a raw key is taken: %q", key)
	}
}

func TestMetadataReadsBothGenerations(t *testing.T) {
	t.Parallel()
	const older = `{"endpoints":{"ns/c/e/2a":{"type":"Endpoint","namespace":"ns","component":"c","endpoint":"e","instance_id":42,"transport":{"tcp":"x"},"new_field":[1]}},
		"model_cards":null,
		"event_channels":{"ns/c/t/2a":{"type":"EventChannel","namespace":"ns","component":"c","topic":"t","instance_id":42,"transport":{"kind":"Zmq","config":{"endpoint":"tcp://h:1"}}},
			"bad":{"type":"EventChannel"}}}`
	var m discovery.Metadata
	err := json.Unmarshal([]byte(older), &m)
	if err == nil || !strings.Contains(err.Error(), `event_channels "bad"`) {
		t.Errorf("error %v, want one that names the bad entry", err)
	}
	if got := m.Instances(); len(got) != 2 {
		t.Fatalf("read %v, want the two that are good", got)
	}
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"new_field":[1]`, `"model_cards":{}`, `"event_sources":{}`, `"namespace/ns/component/c/topic/t/2a"`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("written without %s: %s", want, out)
		}
	}
	if got := m.Filter(discovery.Query{Kind: discovery.KindEventChannel}); len(got) != 1 || !m.Remove(got[0].ID()) || m.Remove(got[0].ID()) {
		t.Errorf("filter and remove: %v", got)
	}
	if err := json.Unmarshal([]byte(`{}`), &m); err != nil || len(m.Instances()) != 0 {
		t.Errorf("an empty document: %v, %v", m.Instances(), err)
	}
	if err := json.Unmarshal([]byte(`{"endpoints":[]}`), &m); err == nil {
		t.Error("a list in the place of a map is taken")
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	registry := memory.New()
	client := discovery.NewClient(registry.Open(), discovery.Options{})
	snapshot := func() discovery.Snapshot {
		t.Helper()
		s, err := client.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	empty := snapshot()
	scope := discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "e"}
	for _, id := range []uint64{1, 1<<64 - 1} {
		if _, err := client.RegisterAs(t.Context(), id, discovery.Endpoint{Scope: scope, Transport: discovery.TCP("x")}); err != nil {
			t.Fatal(err)
		}
	}
	full := snapshot()
	if !full.HasChangesFrom(empty) || full.HasChangesFrom(snapshot()) || full.Sequence <= empty.Sequence {
		t.Error("HasChangesFrom reports the same for changes and for none")
	}
	if got := full.Filter(discovery.Query{Kind: discovery.KindEndpoint, Scope: scope}); len(got) != 2 || got[1].InstanceID != 1<<64-1 {
		t.Errorf("filtered %v", got)
	}
	if _, err := client.RegisterAs(t.Context(), 1, discovery.Endpoint{Scope: scope, Transport: discovery.TCP("y")}); err != nil {
		t.Fatal(err)
	}
	if now := snapshot(); !now.HasChangesFrom(full) {
		t.Error("a changed value is no change")
	}
	data, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	var back discovery.Snapshot
	if err := json.Unmarshal(data, &back); err != nil || back.HasChangesFrom(full) || len(back.Filter(discovery.Query{Kind: discovery.KindEndpoint})) != 2 {
		t.Errorf("read back %+v, %v", back, err)
	}
}

func TestSnapshotGroupsPublishersByTheirWorker(t *testing.T) {
	t.Parallel()
	client := discovery.NewClient(memory.New().Open(), discovery.Options{})
	scope := discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "e"}
	channel := discovery.EventChannel{Scope: scope, Topic: "t", Transport: discovery.ZMQ{Endpoint: "tcp://127.0.0.1:1"}}
	for id, spec := range map[uint64]discovery.Spec{
		1:   discovery.Endpoint{Scope: scope, Transport: discovery.TCP("x")},
		100: channel, // of worker 1
		200: channel, // of an unknown worker
		300: discovery.EventSource{Scope: scope, Topic: "t", Metadata: json.RawMessage(`{"worker":7}`)},
	} {
		if _, err := client.RegisterAs(t.Context(), id, spec); err != nil {
			t.Fatal(err)
		}
	}
	source := discovery.EventSource{Scope: scope, Topic: "t", Metadata: json.RawMessage(`{"worker":{"worker_id":1,"dp_rank":0}}`)}
	if _, err := client.RegisterAs(t.Context(), 100, source); err != nil {
		t.Fatal(err)
	}
	s, err := client.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[uint64]int{}
	for id, m := range s.Instances {
		got[id] = len(m.Instances())
	}
	if want := map[uint64]int{1: 3, 200: 1, 300: 1}; !maps.Equal(got, want) {
		t.Errorf("registrations by instance %v, want %v", got, want)
	}
}

func TestWatchField(t *testing.T) {
	t.Parallel()
	registry := memory.New()
	client := discovery.NewClient(registry.Open(), discovery.Options{})
	scope := discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "e"}
	type card struct {
		Name    string `json:"display_name"`
		Source  string `json:"source_path"`
		Context int    `json:"context_length"`
	}
	register := func(id uint64, c any, suffix string) *discovery.Registration {
		t.Helper()
		m, err := discovery.NewModel(scope, c, suffix)
		if err != nil {
			t.Fatal(err)
		}
		reg, err := client.RegisterAs(t.Context(), id, m)
		if err != nil {
			t.Fatal(err)
		}
		return reg
	}
	base := card{"llama", "org/llama", 4096}
	lora := card{"lora", "org/llama", 1}
	register(1, lora, "b-lora")
	register(1, card{"lora", "org/llama", 2}, "a-lora")
	register(2, map[string]any{"display_name": "llama", "source_path": "org/llama", "context_length": "no number"}, "")
	step := 0
	var reg *discovery.Registration
	for got, err := range discovery.WatchField(t.Context(), client, discovery.Query{}, func(c card) int { return c.Context }) {
		if err != nil {
			t.Fatal(err)
		}
		switch step++; step {
		case 1: // of two adapters the first, in the one view of all that is there
			if got[1] != 2 || len(got) != 1 {
				t.Fatalf("first view %v", got)
			}
			if bad := client.Stats().InvalidEntries; bad != 1 {
				t.Errorf("%d bad cards counted, want 1", bad)
			}
			register(1, lora, "c-lora") // changes nothing
			reg = register(1, base, "")
		case 2: // the model before its adapters
			if got[1] != 4096 || len(got) != 1 {
				t.Fatalf("second view %v", got)
			}
			if err := reg.Unregister(t.Context()); err != nil {
				t.Fatal(err)
			}
		case 3:
			if got[1] != 2 {
				t.Fatalf("third view %v", got)
			}
			return
		}
	}
}
