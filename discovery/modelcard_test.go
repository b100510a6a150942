package discovery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/internal/waittest"
)

// registered returns an instance that a worker of Dynamo registered.
func registered(t *testing.T, name string) discovery.Instance {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var in discovery.Instance
	if err := json.Unmarshal(data, &in); err != nil {
		t.Fatal(err)
	}
	return in
}

// fields returns the fields of a JSON object, or of an object's JSON.
func fields(t *testing.T, v any) map[string]any {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestModelCard compares a card with that of a real worker, field by field, and
// requires each field that this worker's card cannot lack.
func TestModelCard(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"dynamo-1.6.1-model.json", "dynamo-1.3.1-model.json"} {
		in := registered(t, file)
		var theirs discovery.ModelCard
		if err := in.DecodeCard(&theirs); err != nil {
			t.Fatal(err)
		}
		want := discovery.NewTensorCard("interop")
		want.RuntimeConfig.DataParallelSize = 1
		want.TensorModelConfig.Inputs, want.TensorModelConfig.Outputs = []json.RawMessage{}, []json.RawMessage{}
		if !reflect.DeepEqual(theirs, want) {
			t.Errorf("%s: parsed %+v, want %+v", file, theirs, want)
		}
		model, err := discovery.NewModel(in.Spec.(discovery.Model).Scope, discovery.NewTensorCard("interop"), "")
		if err != nil {
			t.Fatal(err)
		}
		ours, all := fields(t, model.Card), fields(t, in.Spec.(discovery.Model).Card)
		for name, value := range ours {
			if name != "runtime_config" && !reflect.DeepEqual(value, all[name]) {
				t.Errorf("%s: %s is %v, want %v", file, name, value, all[name])
			}
		}
		required := []string{
			"display_name", "kv_cache_block_size", "migration_limit", "model_input", "model_type", "runtime_config",
			"slug", "tensor_model_config", "worker_type",
		}
		if have := slices.Sorted(maps.Keys(ours)); !slices.Equal(have, required) {
			t.Errorf("fields %q, want %q", have, required)
		}
		if config := ours["runtime_config"]; !reflect.DeepEqual(config, map[string]any{}) {
			t.Errorf("runtime_config %v, want it empty", config)
		}
	}
}

func TestRuntimeConfig(t *testing.T) {
	t.Parallel()
	theirs := fields(t, registered(t, "dynamo-1.6.1-model.json").Spec.(discovery.Model).Card)["runtime_config"].(map[string]any)
	ours := fields(t, discovery.RuntimeConfig{ContextLength: 9, TotalKVBlocks: 1, DataParallelStartRank: 2, DataParallelSize: 4})
	for name := range ours {
		if _, ok := theirs[name]; !ok && name != "context_length" { // which a worker writes only if it is set
			t.Errorf("%s: no worker has this field", name)
		}
	}
	want := map[string]any{"context_length": 9.0, "total_kv_blocks": 1.0, "data_parallel_start_rank": 2.0, "data_parallel_size": 4.0}
	if !reflect.DeepEqual(ours, want) {
		t.Errorf("%v, want %v", ours, want)
	}
}

func TestSlug(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"interop": "interop", "Qwen/Qwen3-0.6B": "qwen_qwen3-0_6b", "__a_": "a_", "": "", "Größe": "gr__e",
	} {
		if have := discovery.Slug(name); have != want {
			t.Errorf("Slug(%q) is %q, want %q", name, have, want)
		}
	}
}

// TestKVSource requires the bytes of a real worker's metadata.
func TestKVSource(t *testing.T) {
	t.Parallel()
	in := registered(t, "dynamo-1.6.1-source.json")
	metadata := in.Spec.(discovery.EventSource).Metadata
	var source discovery.KVSource
	if err := json.Unmarshal(metadata, &source); err != nil {
		t.Fatal(err)
	}
	scope := discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}
	if source.Endpoint != scope || source.WorkerID != 6465354514961167846 || source.Rank != 0 ||
		source.PublisherID != in.InstanceID || source.RecoveryTarget == nil {
		t.Errorf("parsed %+v", source)
	}
	written, err := json.Marshal(source)
	if err != nil || string(written) != string(metadata) {
		t.Errorf("%v: wrote %s, want %s", err, written, metadata)
	}
}

func TestInvalidKVSource(t *testing.T) {
	t.Parallel()
	for _, data := range []string{`7`, `{}`, `{"kv_state_endpoint":null,"publisher_id":1}`} {
		if err := json.Unmarshal([]byte(data), new(discovery.KVSource)); err == nil {
			t.Errorf("%s: no error", data)
		}
	}
}

// TestChangedCard changes the taints of a worker's card, which Dynamo's watch
// reports as ModelTaintsUpdated: here it is Added, with the new card.
func TestChangedCard(t *testing.T) {
	t.Parallel()
	registry := memory.New()
	in := registered(t, "dynamo-1.6.1-model.json")
	worker := discovery.NewClient(registry.Open(), discovery.Options{})
	reader := discovery.NewClient(registry.Open(), discovery.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	register := func(in discovery.Instance) {
		t.Helper()
		if _, err := worker.RegisterInstance(ctx, in); err != nil {
			t.Fatal(err)
		}
	}
	register(in)
	var got []string
	for ev, err := range reader.Watch(ctx, discovery.Query{Kind: discovery.KindModel}) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Type == discovery.Synced {
			changed := strings.Replace(string(in.Raw), `"runtime_config":{`, `"runtime_config":{"taints":["drain"],`, 1)
			var tainted discovery.Instance
			if err := json.Unmarshal([]byte(changed), &tainted); err != nil {
				t.Fatal(err)
			}
			register(tainted)
			continue
		}
		var card struct {
			RuntimeConfig struct {
				Taints []string `json:"taints"`
			} `json:"runtime_config"`
		}
		if err := ev.Instance.DecodeCard(&card); err != nil {
			t.Fatal(err)
		}
		if got = append(got, fmt.Sprint(ev.Type, card.RuntimeConfig.Taints)); len(got) == 2 {
			break
		}
	}
	if want := []string{"added []", "added [drain]"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// FuzzKVSource checks that metadata that can be read is equal when written and
// read again.
func FuzzKVSource(f *testing.F) {
	for _, seed := range []string{
		`{"kv_state_endpoint":{"namespace":"ns","component":"c","name":"e"},"worker":{"worker_id":42,"dp_rank":1},"publisher_id":7}`,
		`{"kv_state_endpoint":{},"recovery_target":{"a":[1,2]}}`, `{}`, `null`, `5`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var source, again discovery.KVSource
		if json.Unmarshal(data, &source) != nil {
			return
		}
		out, err := json.Marshal(source)
		if err == nil {
			err = json.Unmarshal(out, &again)
		}
		if err != nil || again.Endpoint != source.Endpoint || again.WorkerID != source.WorkerID ||
			again.Rank != source.Rank || again.PublisherID != source.PublisherID {
			t.Errorf("%q is read as %+v, written as %s and read as %+v, %v", data, source, out, again, err)
		}
	})
}
