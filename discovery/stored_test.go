package discovery

import (
	"encoding/json"
	"strings"
	"testing"
)

// Each case changes what was read, and the change and all that was not changed
// are stored.
func TestStoredHonoursChanges(t *testing.T) {
	t.Parallel()
	const (
		endpoint = `{"type":"Endpoint","instance_id":1,"namespace":"n","component":"c","endpoint":"e","device_type":"cuda","transport":{"tcp":"a"},"later":{"x": [1, 9007199254740993]}}`
		channel  = `{"type":"EventChannel","instance_id":1,"namespace":"n","component":"c","topic":"t","transport":{"kind":"Zmq","config":{"endpoint":"a","more":true}},"later":7}`
		model    = `{"type":"Model","instance_id":1,"Namespace":"n","component":"c","endpoint":"e","model_suffix":"s","card_json":{"display_name": "<m>"}}`
	)
	for name, c := range map[string]struct {
		raw    string
		change func(*Instance)
		want   string // as the same JSON
		exact  bool   // as the same bytes
	}{
		"nothing": {raw: endpoint, change: func(*Instance) {}, want: endpoint, exact: true},
		"the memory of the card": {
			raw: model, want: model, exact: true,
			change: func(in *Instance) {
				m := in.Spec.(Model)
				m.Card = json.RawMessage(`{"display_name":"<m>"}`)
				in.Spec = m
			},
		},
		"the id": {
			raw: endpoint, change: func(in *Instance) { in.InstanceID = 1<<64 - 1 },
			want: strings.Replace(endpoint, `"instance_id":1`, `"instance_id":18446744073709551615`, 1),
		},
		"a field that becomes empty": {
			raw: endpoint, change: func(in *Instance) {
				e := in.Spec.(Endpoint)
				e.Device = ""
				in.Spec = e
			},
			want: strings.Replace(endpoint, `"device_type":"cuda",`, ``, 1),
		},
		"the topic, and not what others wrote in the transport": {
			raw: channel, change: func(in *Instance) {
				ch := in.Spec.(EventChannel)
				ch.Topic = "u"
				in.Spec = ch
			},
			want: strings.Replace(channel, `"topic":"t"`, `"topic":"u"`, 1),
		},
		"the scope of a channel, which the older generation writes as names": {
			raw: channel, change: func(in *Instance) {
				ch := in.Spec.(EventChannel)
				ch.Scope.Component = "d"
				in.Spec = ch
			},
			want: strings.Replace(channel, `"component":"c"`, `"component":"d","scope":{"kind":"component","namespace":"n","component":"d"}`, 1),
		},
		"a field that was read in another case": {
			raw: model, change: func(in *Instance) {
				m := in.Spec.(Model)
				m.Scope.Namespace, m.Suffix = "o", ""
				in.Spec = m
			},
			want: `{"type":"Model","instance_id":1,"namespace":"o","component":"c","endpoint":"e","card_json":{"display_name":"<m>"}}`,
		},
		"the kind": {
			raw: channel, change: func(in *Instance) { in.Spec = Endpoint{Scope: dynamo, Transport: TCP("b")} },
			want: `{"type":"Endpoint","instance_id":1,"namespace":"dynamo","component":"backend","endpoint":"generate","transport":{"tcp":"b"},"later":7}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var in Instance
			if err := json.Unmarshal([]byte(c.raw), &in); err != nil {
				t.Fatal(err)
			}
			c.change(&in)
			stored, err := in.stored()
			if err != nil || !equalJSON(stored, json.RawMessage(c.want)) || c.exact && string(stored) != c.want {
				t.Fatalf("stored %s, %v\nwant   %s", stored, err, c.want)
			}
			again, err := decodeInstance(stored)
			if err != nil || again.ID() != in.ID() {
				t.Errorf("%s is read as %v, %v, want %v", stored, again.ID(), err, in.ID())
			}
		})
	}
}

func TestStoredRefusesARawThatIsNoInstance(t *testing.T) {
	t.Parallel()
	in := Instance{InstanceID: 1, Spec: Endpoint{Scope: dynamo, Transport: TCP("a")}, Raw: json.RawMessage(`{"type":"Endpoint"}`)}
	if stored, err := in.stored(); err == nil || !strings.Contains(err.Error(), "field Raw: want the JSON that the instance was read from, or nil") {
		t.Errorf("stored %s, %v", stored, err)
	}
}
