package discovery

import (
	"encoding/json"
	"strings"
	"testing"
)

// BenchmarkInstance decodes a card of 100 KB beside the library on the same
// bytes.
func BenchmarkInstance(b *testing.B) {
	model, err := NewModel(Scope{"ns", "comp", "ep"}, map[string]string{"display_name": "m", "template": strings.Repeat("x", 100_000)}, "")
	if err != nil {
		b.Fatal(err)
	}
	data, err := json.Marshal(Instance{InstanceID: 1, Spec: model})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("instance", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			var in Instance
			if err := json.Unmarshal(data, &in); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("library", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			var in modelJSON
			if err := json.Unmarshal(data, &in); err != nil {
				b.Fatal(err)
			}
		}
	})
}
