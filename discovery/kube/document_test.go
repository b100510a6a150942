package kube

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/discovery"
)

func TestParseInstance(t *testing.T) {
	t.Parallel()
	scope := discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}
	channel := discovery.EventChannel{Scope: scope, Topic: "kv-events", Transport: discovery.ZMQ{Endpoint: "tcp://10.0.0.7:1"}}
	for name, value := range map[string]string{
		"ours":             marshal(t, discovery.Instance{InstanceID: 7, Spec: channel}),
		"newer generation": `{"type":"EventChannel","scope":{"kind":"endpoint","endpoint":{"namespace":"dynamo","component":"backend","name":"generate"}},"topic":"kv-events","instance_id":7,"transport":{"kind":"Zmq","config":{"endpoint":"tcp://10.0.0.7:1"}},"more":1}`,
	} {
		in, err := parseInstance(channel.ID(7), []byte(value))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got struct {
			Namespace, Component string
			Scope                discovery.Scope
		}
		if err := json.Unmarshal(in.Raw, &got); err != nil || got.Namespace != "dynamo" || got.Component != "backend" || got.Scope != scope {
			t.Errorf("%s: %s, %v", name, in.Raw, err)
		}
		if strings.Contains(value, "more") != strings.Contains(string(in.Raw), "more") {
			t.Errorf("%s: %s: lost an unknown field", name, in.Raw)
		}
	}
	older := `{"type":"EventChannel","namespace":"dynamo","component":"","topic":"t","instance_id":7,"transport":{"kind":"Nats","config":{"subject_prefix":"namespace.dynamo"}}}`
	in, err := parseInstance(discovery.EventChannel{Scope: discovery.Scope{Namespace: "dynamo"}, Topic: "t"}.ID(7), []byte(older))
	if err != nil || !strings.Contains(string(in.Raw), `"scope":{"kind":"namespace","name":"dynamo"}`) {
		t.Errorf("older generation: %s, %v", in.Raw, err)
	}
	if _, err := parseInstance(channel.ID(1<<53), []byte(older)); !errors.Is(err, discovery.ErrUnstorable) || !strings.Contains(err.Error(), "9007199254740992") {
		t.Errorf("an id above 2^53-1: %v", err)
	}
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestWorkerObject(t *testing.T) {
	t.Parallel()
	var doc discovery.Metadata
	doc.Add(discovery.Instance{InstanceID: 42, Spec: discovery.EventChannel{
		Scope: discovery.Scope{Namespace: "dynamo"}, Topic: "kv_metrics", Transport: discovery.NATS{SubjectPrefix: "namespace.dynamo"},
	}})
	for _, c := range []struct {
		options    Options
		name       string
		controller bool
	}{
		{Options{Mode: ModePod, PodName: "worker-0", PodUID: "u"}, "worker-0", true},
		{Options{Mode: ModeContainer, PodName: "worker-0", PodUID: "u", Container: "main"}, "worker-0", true},
		{Options{Mode: ModeContainer, PodName: "worker-0", PodUID: "u", Container: "engine-0"}, "worker-0-engine-0", false},
	} {
		raw, err := workerObject(c.options, "", doc)
		if err != nil {
			t.Fatal(err)
		}
		object := parse(t, string(raw))
		owner := object.GetOwnerReferences()[0]
		if object.GetName() != c.name || owner.Name != "worker-0" || owner.UID != "u" || owner.Kind != "Pod" || owner.APIVersion != "v1" ||
			*owner.Controller != c.controller || *owner.BlockOwnerDeletion {
			t.Errorf("%+v: %+v", c.options, object)
		}
		// The object is read back unchanged.
		read, err := readDocument(object)
		if got, want := marshal(t, read), marshal(t, doc); err != nil || len(read.Instances()) != 1 || len(got) != len(want) {
			t.Errorf("read back %s, %v, want %s", got, err, want)
		}
	}
}

func TestAsYAML(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"a":"ünï€😀"}`:                            `{"a":"ünï€😀"}`,
		"{\"x\x7f\":\"\u0080\ufeff\uffff\u00a0\"}": `{"x\u007f":"\u0080\ufeff\uffff` + "\u00a0" + `"}`,
	} {
		if got := string(asYAML([]byte(in))); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// The two files are objects as the two generations of Dynamo write them.
func TestReadWorkerGenerations(t *testing.T) {
	t.Parallel()
	for file, want := range map[string][]string{
		"testdata/gen1.json": {
			"dynamo/backend/generate/2a", "dynamo/backend/generate/2a", "dynamo//kv_metrics/2a", "dynamo/backend/kv-events/2a",
		},
		"testdata/gen2.json": {
			"dynamo/backend/generate/1c9a5dad7b0253", "dynamo//kv_metrics/2a",
			"namespace/dynamo/component/backend/endpoint/generate/topic/kv-events/7b",
			"namespace/dynamo/component/backend/endpoint/generate/topic/kv-events/7b",
		},
	} {
		w := readWorker(object(t, file), nil)
		if w.err != nil {
			t.Fatalf("%s: %v", file, w.err)
		}
		var got []string
		for _, in := range w.doc.Instances() {
			got = append(got, in.ID().Path())
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: %v, want %v", file, got, want)
		}
		if w.uid != "object-uid" || w.podUID != "pod-uid" || w.created != "2026-08-01T10:00:00Z" {
			t.Errorf("%s: %+v", file, w)
		}
	}
}

func readFile(t testing.TB, file string) []byte {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
