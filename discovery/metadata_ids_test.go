package discovery_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/discovery"
)

// API servers keep ids above 2^63-1 as float64; the path has the exact one.
func TestMetadataRestoresRoundedIDs(t *testing.T) {
	t.Parallel()
	endpoint := func(id string) string {
		return `{"type":"Endpoint","namespace":"ns","component":"c","endpoint":"e","instance_id":` + id + `,"transport":{"tcp":"x"},"more":1}`
	}
	channel := func(id string) string {
		return `{"type":"EventChannel","namespace":"ns","component":"c","topic":"t","instance_id":` + id + `,"transport":{"kind":"Zmq","config":{"endpoint":"tcp://h:1"}}}`
	}
	for _, c := range []struct {
		field, path, instance string
		want                  uint64 // 0 if the entry is invalid
	}{
		{"endpoints", "ns/c/e/8000000000000001", endpoint("9223372036854776000"), 1<<63 + 1},
		{"endpoints", "ns/c/e/8000000000000000", endpoint("9223372036854776000"), 1 << 63},
		{"endpoints", "ns/c/e/ffffffffffffffff", endpoint("18446744073709552000"), 1<<64 - 1},
		{"event_channels", "ns/c/t/bb3ad2cc5a9fd8ab", channel("13491327408877328000"), 0xbb3ad2cc5a9fd8ab},
		{"event_channels", "namespace/ns/component/c/topic/t/bb3ad2cc5a9fd8ab", channel("13491327408877328000"), 0xbb3ad2cc5a9fd8ab},
		{"model_cards", "ns/c/e/bb3ad2cc5a9fd8ab/lora", `{"type":"Model","namespace":"ns","component":"c","endpoint":"e",
			"instance_id":13491327408877328000,"card_json":{"display_name":"m"},"model_suffix":"lora"}`, 0xbb3ad2cc5a9fd8ab},
		{"event_sources", "namespace/ns/topic/t/bb3ad2cc5a9fd8ab", `{"type":"EventSource","scope":{"kind":"namespace","name":"ns"},"topic":"t",
			"publisher_id":13491327408877328000,"metadata":{}}`, 0xbb3ad2cc5a9fd8ab},
		// Any other difference: the JSON has the id.
		{"endpoints", "ns/c/e/8000000000000001", endpoint("9223372036854775810"), 1<<63 + 2},
		{"endpoints", "ns/c/e/8000000000100001", endpoint("9223372036854776000"), 9223372036854776000},
		{"endpoints", "ns/c/e/20000000000001", endpoint("9007199254740992"), 1 << 53},
		{"endpoints", "8000000000000001", endpoint("9223372036854776000"), 9223372036854776000},
		{"endpoints", "ns/c/e/8000000000000001", endpoint("18446744073709552000"), 0},
	} {
		var m discovery.Metadata
		err := json.Unmarshal([]byte(`{"`+c.field+`":{"`+c.path+`":`+c.instance+`}}`), &m)
		got := m.Instances()
		if c.want == 0 {
			if err == nil || len(got) > 0 {
				t.Errorf("%s %s: read as %v", c.path, c.instance, got)
			}
			continue
		}
		if err != nil || len(got) != 1 || got[0].InstanceID != c.want {
			t.Errorf("%s: %v, %v, want id %d", c.path, got, err, c.want)
			continue
		}
		var stored discovery.Instance
		if err := json.Unmarshal(got[0].Raw, &stored); err != nil || stored.InstanceID != c.want || strings.Contains(c.instance, "more") != strings.Contains(string(got[0].Raw), `"more":1`) {
			t.Errorf("%s: raw %s, %v, want id %d and all fields", c.path, got[0].Raw, err, c.want)
		}
	}
}
