package kube

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/dynplane/dynplane/discovery"
)

// BenchmarkReadWorker reads a document; the baseline parses its JSON alone.
func BenchmarkReadWorker(b *testing.B) {
	obj := object(b, "testdata/gen2.json")
	raw, err := json.Marshal(obj.Object["spec"])
	if err != nil {
		b.Fatal(err)
	}
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			readWorker(obj, nil)
		}
	})
	b.Run("json", func(b *testing.B) {
		for b.Loop() {
			var v any
			if err := json.Unmarshal(raw, &v); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkJoin joins a thousand pods with their objects, as each change does.
func BenchmarkJoin(b *testing.B) {
	var ready []readyWorker
	workers := map[string]*worker{}
	for i := range 1000 {
		name := fmt.Sprint("worker-", i)
		ready = append(ready, readyWorker{name, "1"})
		workers[name] = readWorker(parse(b, workerJSON(name, name, "1", "", uint64(i))), nil)
	}
	for b.Loop() {
		if len(join(discovery.Query{Kind: discovery.KindEndpoint}, ready, workers)) != 1000 {
			b.Fatal("want 1000 entries")
		}
	}
}
