package discovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

var dynamo = Scope{"dynamo", "backend", "generate"}

// someInstances are instances whose JSON is the same read and written.
var someInstances = []struct {
	json string
	want Instance
}{
	{
		`{"type":"Endpoint","component":"backend","endpoint":"generate","namespace":"dynamo","instance_id":8051026481054291,"transport":{"tcp":"10.0.0.7:41231/1c9a5dad7b0253/generate"},"device_type":"cuda","request_plane_codec":"msgpack"}`,
		Instance{InstanceID: 8051026481054291, Spec: Endpoint{Scope: dynamo, Transport: TCP("10.0.0.7:41231/1c9a5dad7b0253/generate"), Device: DeviceCUDA, RequestCodec: "msgpack"}},
	},
	{
		`{"type":"Endpoint","component":"backend","endpoint":"generate","namespace":"dynamo","instance_id":18446744073709551615,"transport":{"nats_tcp":"dynamo_backend.generate-2a"}}`,
		Instance{InstanceID: 1<<64 - 1, Spec: Endpoint{Scope: dynamo, Transport: NATSTCP("dynamo_backend.generate-2a")}},
	},
	{
		`{"type":"Endpoint","component":"backend","endpoint":"generate","namespace":"dynamo","instance_id":9007199254740993,"transport":{"http":{"url":"http://10.0.0.7","retries":[1,2]}}}`,
		Instance{InstanceID: 1<<53 + 1, Spec: Endpoint{Scope: dynamo, Transport: RequestTransport{Raw: json.RawMessage(`{"http":{"url":"http://10.0.0.7","retries":[1,2]}}`)}}},
	},
	{
		`{"type":"Model","namespace":"dynamo","component":"backend","endpoint":"generate","instance_id":42,"card_json":{"display_name":"my-model","source_path":"org/my-model","runtime_config":{"taints":[]}},"model_suffix":"my-lora"}`,
		Instance{InstanceID: 42, Spec: Model{Scope: dynamo, Card: json.RawMessage(`{"display_name":"my-model","source_path":"org/my-model","runtime_config":{"taints":[]}}`), Suffix: "my-lora"}},
	},
	{
		`{"type":"EventChannel","namespace":"dynamo","component":"backend","scope":{"kind":"component","namespace":"dynamo","component":"backend"},"topic":"kv-events","instance_id":42,"transport":{"kind":"Zmq","config":{"endpoint":"tcp://10.0.0.7:41877"}}}`,
		Instance{InstanceID: 42, Spec: EventChannel{Scope: Scope{"dynamo", "backend", ""}, Topic: "kv-events", Transport: ZMQ{Endpoint: "tcp://10.0.0.7:41877"}}},
	},
	{
		`{"type":"EventChannel","namespace":"dynamo","component":"backend","scope":{"kind":"component","namespace":"dynamo","component":"backend"},"topic":"kv-events","instance_id":42,"transport":{"kind":"Zmq","config":{"endpoint":"tcp://10.0.0.7:41877","replay_endpoint":"tcp://10.0.0.7:41878"}}}`,
		Instance{InstanceID: 42, Spec: EventChannel{Scope: Scope{"dynamo", "backend", ""}, Topic: "kv-events", Transport: ZMQ{Endpoint: "tcp://10.0.0.7:41877", ReplayEndpoint: "tcp://10.0.0.7:41878"}}},
	},
	{
		`{"type":"EventChannel","namespace":"dynamo","component":"","scope":{"kind":"namespace","name":"dynamo"},"topic":"kv-events","instance_id":42,"transport":{"kind":"Nats","config":{"subject_prefix":"namespace.dynamo"}}}`,
		Instance{InstanceID: 42, Spec: EventChannel{Scope: Scope{"dynamo", "", ""}, Topic: "kv-events", Transport: NATS{"namespace.dynamo"}}},
	},
	{
		`{"type":"EventChannel","namespace":"dynamo","component":"zmq_broker","scope":{"kind":"component","namespace":"dynamo","component":"zmq_broker"},"topic":"broker","instance_id":42,"transport":{"kind":"ZmqBroker","config":{"xsub_endpoints":["tcp://h:5555"],"xpub_endpoints":["tcp://h:5556","tcp://h:5557"]}}}`,
		Instance{InstanceID: 42, Spec: EventChannel{Scope: Scope{"dynamo", "zmq_broker", ""}, Topic: "broker", Transport: ZMQBroker{XSubEndpoints: []string{"tcp://h:5555"}, XPubEndpoints: []string{"tcp://h:5556", "tcp://h:5557"}}}},
	},
}

func TestInstances(t *testing.T) {
	t.Parallel()
	for _, c := range someInstances {
		data, err := json.Marshal(c.want)
		if err != nil || string(data) != c.json {
			t.Errorf("written %s, %v\nwant    %s", data, err, c.json)
		}
		var got Instance
		if err := json.Unmarshal([]byte(c.json), &got); err != nil {
			t.Errorf("%s: %v", c.json, err)
			continue
		}
		if string(got.Raw) != c.json {
			t.Errorf("raw %s, want %s", got.Raw, c.json)
		}
		if got.Raw = nil; !reflect.DeepEqual(got, c.want) {
			t.Errorf("read %+v, want %+v", got, c.want)
		}
	}
}

// Forms that other writers use, and which are only read.
func TestInstancesOfOthers(t *testing.T) {
	t.Parallel()
	const transport = `"transport":{"kind":"Zmq","config":{"endpoint":"tcp://10.0.0.7:41877"}}`
	zmq := ZMQ{Endpoint: "tcp://10.0.0.7:41877"}
	for _, c := range []struct {
		json string
		want Spec
	}{
		// The older generation.
		{`{"type":"EventChannel","namespace":"dynamo","component":"backend","topic":"kv-events","instance_id":42,` + transport + `}`, EventChannel{Scope{"dynamo", "backend", ""}, "kv-events", zmq}},
		{`{"type":"EventChannel","namespace":"dynamo","component":"","topic":"kv-events","instance_id":42,"scope":null,` + transport + `}`, EventChannel{Scope{"dynamo", "", ""}, "kv-events", zmq}},
		// The newer one.
		{`{"type":"EventChannel","scope":{"kind":"endpoint","endpoint":{"namespace":"dynamo","component":"backend","name":"generate"}},"topic":"kv-events","instance_id":42,` + transport + `}`, EventChannel{dynamo, "kv-events", zmq}},
		{`{"type":"EventChannel","scope":{"kind":"namespace","name":"dynamo"},"topic":"kv-events","instance_id":42,` + transport + `}`, EventChannel{Scope{"dynamo", "", ""}, "kv-events", zmq}},
		// Fields in any order, with white space and unknown fields.
		{"{ \"later\": [1],\n\"instance_id\":42, \"topic\":\"t\"," + transport + `,"component":"c","namespace":"n","type":"EventChannel"}`, EventChannel{Scope{"n", "c", ""}, "t", zmq}},
		{`{"type":"EventChannel","namespace":"n","component":"c","topic":"t","instance_id":42,"transport":{"kind":"ZmqBroker","config":{"xsub_endpoints":[],"xpub_endpoints":null}}}`, EventChannel{Scope{"n", "c", ""}, "t", ZMQBroker{XSubEndpoints: []string{}}}},
		// Transports that are not defined.
		{`{"type":"EventChannel","namespace":"n","component":"c","topic":"t","instance_id":42,"transport":{"kind":"Quic","config":{"a":[1, 9007199254740993]}}}`, EventChannel{Scope{"n", "c", ""}, "t", UnknownTransport{json.RawMessage(`{"kind":"Quic","config":{"a":[1, 9007199254740993]}}`)}}},
		{`{"type":"EventChannel","namespace":"n","component":"c","topic":"t","instance_id":42,"transport":"odd"}`, EventChannel{Scope{"n", "c", ""}, "t", UnknownTransport{json.RawMessage(`"odd"`)}}},
		{`{"type":"Model","namespace":"dynamo","component":"backend","endpoint":"generate","instance_id":42,"card_json":"any JSON"}`, Model{Scope: dynamo, Card: json.RawMessage(`"any JSON"`)}},
		{`{"type":"Endpoint","component":"backend","endpoint":"generate","namespace":"dynamo","instance_id":42,"transport":"odd","device_type":"tpu"}`, Endpoint{Scope: dynamo, Transport: RequestTransport{Raw: json.RawMessage(`"odd"`)}, Device: "tpu"}},
		{`{"type":"Endpoint","component":"backend","endpoint":"generate","namespace":"dynamo","instance_id":42,"transport":{"tcp":"a","nats_tcp":"b"}}`, Endpoint{Scope: dynamo, Transport: RequestTransport{Raw: json.RawMessage(`{"tcp":"a","nats_tcp":"b"}`)}}},
	} {
		var got Instance
		if err := json.Unmarshal([]byte(c.json), &got); err != nil || !reflect.DeepEqual(got.Spec, c.want) || got.InstanceID != 42 {
			t.Errorf("%s is read as %+v, %v", c.json, got, err)
		}
	}
}

func TestBadInstances(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ json, want string }{
		{`null`, `type ""`},
		{`5`, "cannot unmarshal number"},
		{`{}`, `type "": want one of Endpoint, Model, EventChannel`},
		{`{"type":"endpoint"}`, `type "endpoint": want one of`},
		{`{"type":"Endpoint"}`, "type Endpoint has no instance_id"},
		{`{"type":"Endpoint","instance_id":-1}`, "instance_id"},
		{`{"type":"Endpoint","instance_id":1.5}`, "instance_id"},
		{`{"type":"Endpoint","instance_id":"1"}`, "instance_id"},
		{`{"type":"Endpoint","instance_id":18446744073709551616}`, "instance_id"},
		{`{"type":"Endpoint","instance_id":1}`, "no transport"},
		{`{"type":"Endpoint","instance_id":1,"transport":null}`, "transport null"},
		{`{"type":"Endpoint","instance_id":1,"transport":{"tcp":"x"}}`, "want a namespace"},
		{`{"type":"Endpoint","instance_id":1,"transport":{"tcp":"x"},"namespace":"a","component":"b"}`, "want namespace, component and endpoint"},
		{`{"type":"Model","instance_id":1}`, "no card_json"},
		{`{"type":"EventChannel","instance_id":1,"namespace":"a","topic":"t"}`, "no transport"},
		{`{"type":"EventChannel","instance_id":1,"namespace":"a","topic":"t","transport":null}`, "transport null"},
		{`{"type":"EventChannel","instance_id":1,"namespace":"a","topic":"t","transport":{"kind":"Zmq","config":5}}`, "config of transport Zmq"},
		{`{"type":"EventChannel","instance_id":1,"namespace":"a","transport":{"kind":"Zmq","config":{"endpoint":"x"}}}`, "want a topic"},
		{`{"type":"EventChannel","instance_id":1,"scope":{"kind":"cluster"},"topic":"t","transport":{"kind":"Zmq","config":{"endpoint":"x"}}}`, `scope kind "cluster"`},
		{`{"type":"Endpoint","x":` + strings.Repeat("[", 1_000_000), "exceeded max depth"},
	} {
		var got Instance
		if err := json.Unmarshal([]byte(c.json), &got); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s: got %v, want one that contains %s", c.json, err, c.want)
		}
	}
}

func TestDecodeCard(t *testing.T) {
	t.Parallel()
	model, err := NewModel(dynamo, map[string]any{"display_name": "m", "context_length": 8192}, "")
	if err != nil {
		t.Fatal(err)
	}
	var card struct {
		Name   string `json:"display_name"`
		Length int    `json:"context_length"`
	}
	in := Instance{InstanceID: 1, Spec: model}
	if err := in.DecodeCard(&card); err != nil || card.Name != "m" || card.Length != 8192 {
		t.Errorf("read %+v, %v", card, err)
	}
	var n int
	if err := in.DecodeCard(&n); err == nil || !strings.Contains(err.Error(), "dynamo/backend/generate/1") {
		t.Errorf("a card as a number: %v", err)
	}
	for _, other := range []Spec{Endpoint{Scope: dynamo}, EventChannel{Scope: dynamo, Topic: "t"}} {
		err := Instance{InstanceID: 1, Spec: other}.DecodeCard(&card)
		if kind := other.ID(1).Kind.String(); !errors.Is(err, ErrKind) || !strings.Contains(err.Error(), kind) {
			t.Errorf("card of a %s: %v", kind, err)
		}
	}
	if _, err := NewModel(dynamo, func() {}, ""); err == nil || !strings.Contains(err.Error(), "card of model at dynamo/backend/generate") {
		t.Errorf("a card that is no JSON: %v", err)
	}
}

// A list of models would hold every card twice.
func TestCardIsPartOfRaw(t *testing.T) {
	t.Parallel()
	var in Instance
	if err := json.Unmarshal([]byte(someInstances[3].json), &in); err != nil {
		t.Fatal(err)
	}
	card := in.Spec.(Model).Card
	if at := bytes.Index(in.Raw, card); at < 0 || &in.Raw[at] != &card[0] {
		t.Error("the card is a copy")
	}
	if cap(card) != len(card) {
		t.Error("what is appended to the card lands in the rest of the instance")
	}
}

func TestTransports(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		transport     Transport
		kind, address string
	}{
		{NATS{"p"}, "nats", "p"},
		{ZMQ{Endpoint: "e"}, "zmq", "e"},
		{ZMQBroker{}, "zmq", ""},
		{ZMQBroker{XSubEndpoints: []string{"a", "b"}, XPubEndpoints: []string{"c"}}, "zmq", "a"},
		{UnknownTransport{json.RawMessage(`{"kind":"Quic","config":{"url":"x"}}`)}, "Quic", ""},
		{UnknownTransport{json.RawMessage(`{"kind":7}`)}, "", ""},
		{UnknownTransport{json.RawMessage(`[]`)}, "", ""},
		{UnknownTransport{}, "", ""},
	} {
		if c.transport.Kind() != c.kind || c.transport.Address() != c.address {
			t.Errorf("%#v is of kind %q at %q", c.transport, c.transport.Kind(), c.transport.Address())
		}
	}
	for _, raw := range []string{`{"kind":"Quic","new":true,"config":{"n":18446744073709551615}}`, `7`} {
		transport, err := unmarshalTransport([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		in := Instance{InstanceID: 1, Spec: EventChannel{Scope: dynamo, Topic: "t", Transport: transport}}
		if written, err := json.Marshal(in); err != nil || !strings.Contains(string(written), `"transport":`+raw) {
			t.Errorf("%s is written %s, %v", raw, written, err)
		}
	}
	if data, err := json.Marshal(ZMQBroker{}); err != nil || !strings.Contains(string(data), `"xpub_endpoints":[]`) {
		t.Errorf("a broker without endpoints is written %s, %v", data, err)
	}
}

func FuzzInstance(f *testing.F) {
	for _, c := range someInstances {
		f.Add([]byte(c.json))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var in Instance
		if json.Unmarshal(data, &in) != nil {
			return
		}
		// An instance that was read can be written, and is equal when read again.
		written, err := json.Marshal(in)
		if err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		var again Instance
		if err := json.Unmarshal(written, &again); err != nil || again.ID() != in.ID() {
			t.Fatalf("%s is written %s, and read as %v, %v", data, written, again, err)
		}
		twice, err := json.Marshal(again)
		if err != nil || !bytes.Equal(twice, written) {
			t.Fatalf("%s is written %s, and then %s, %v", data, written, twice, err)
		}
	})
}
