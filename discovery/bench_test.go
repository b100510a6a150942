package discovery

import (
	"encoding/json"
	"strings"
	"testing"
)

// benchInstances are an instance of each kind, of the size that Dynamo writes.
func benchInstances(b *testing.B) map[string][]byte {
	b.Helper()
	scope := Scope{"production", "backend-decode", "generate"}
	card := func(size int) Spec {
		model, err := NewModel(scope, map[string]any{
			"display_name": "org/my-model", "slug": "org_my-model", "context_length": 131072,
			"runtime_config": map[string]any{"total_kv_blocks": 26013, "taints": []string{}, "data_parallel_size": 8},
			"template":       strings.Repeat("{%- if messages %}\n", size/20),
		}, "")
		if err != nil {
			b.Fatal(err)
		}
		return model
	}
	out := map[string][]byte{}
	for name, spec := range map[string]Spec{
		"endpoint":   Endpoint{scope, TCP("10.0.0.7:41231/1c9a5dad7b0253/generate"), DeviceCUDA, "msgpack"},
		"channel":    EventChannel{Scope: scope, Topic: "kv-events", Transport: ZMQ{Endpoint: "tcp://10.0.0.7:41877"}},
		"model4KB":   card(4_000),
		"model100KB": card(100_000),
		"source": EventSource{scope, "kv-events", json.RawMessage(
			`{"kv_state_endpoint":{"namespace":"n","component":"c","name":"e"},"worker":{"worker_id":7,"dp_rank":0},"publisher_id":9}`)},
	} {
		data, err := json.Marshal(Instance{InstanceID: 8051026481054291, Spec: spec})
		if err != nil {
			b.Fatal(err)
		}
		if name == "endpoint" { // to 500 bytes, by a field that this version does not define
			data = append(data[:len(data)-1], `,"later":[`+strings.Repeat(`"0123456789",`, 20)+`7]}`...)
		}
		out[name] = data
	}
	return out
}

// BenchmarkDecode decodes instances in one pass, and beside that with
// encoding/json alone.
func BenchmarkDecode(b *testing.B) {
	for name, data := range benchInstances(b) {
		for by, decode := range map[string]func([]byte) (Instance, error){"scanner": decodeInstance, "library": decodeAny} {
			b.Run(name+"/"+by, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					if _, err := decode(data); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkCache measures a change of a cache of 10,000 entries, and reads.
func BenchmarkCache(b *testing.B) {
	const entries = 10_000
	cache := NewCache(NewClient(&script{}, Options{}))
	found := map[ID]reconciledEntry{}
	instance := func(i uint64) Instance {
		return Instance{InstanceID: i, Spec: Endpoint{Scope: Scope{"ns", "comp", "ep"}, Transport: TCP("a")}}
	}
	for i := range uint64(entries) {
		found[scriptID(i)] = reconciledEntry{storedEntry: &storedEntry{scriptID(i), instance(i)}}
	}
	cache.state.Store(newCacheState(1, found))
	cache.rec = &reconciler{entries: found}
	b.Run("change", func(b *testing.B) {
		b.ReportAllocs()
		for i := uint64(0); b.Loop(); i++ {
			cache.publish(Event{Type: Added, Instance: instance(i % entries)}, false)
		}
	})
	b.Run("get", func(b *testing.B) {
		b.ReportAllocs()
		for i := uint64(0); b.Loop(); i++ {
			if _, ok := cache.Get(scriptID(i % entries)); !ok {
				b.Fatal("an entry is missing")
			}
		}
	})
	b.Run("by instance", func(b *testing.B) {
		b.ReportAllocs()
		for i := uint64(0); b.Loop(); i++ {
			if len(cache.ByInstance(i%entries)) != 1 {
				b.Fatal("an entry is missing")
			}
		}
	})
}
