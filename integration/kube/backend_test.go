package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/kube"
)

// TestStoreOnAnAPIServer runs its cases in namespaces of one cluster.
func TestStoreOnAnAPIServer(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	for _, test := range []struct {
		name string
		run  func(place)
	}{
		{"objects of Dynamo", dynamoObjects},
		{"pods come and go", podsComeAndGo},
		{"containers", containers},
		{"broken objects", brokenObjects},
		{"register", register},
		{"write that fails", writeThatFails},
		{"without definition", withoutDefinition},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(c.in(t))
		})
	}
}

// dynamoObjects reads both generations of documents as Dynamo writes them.
func dynamoObjects(p place) {
	for _, file := range []string{"gen1.json", "gen2.json"} {
		raw, err := os.ReadFile(filepath.Join("..", "..", "discovery", "kube", "testdata", file))
		if err != nil {
			p.Fatal(err)
		}
		obj := fromYAML(p.T, string(raw))
		obj.SetName(strings.TrimSuffix(file, ".json"))
		obj.SetUID("")
		obj.SetCreationTimestamp(metav1.Time{})
		text, _ := obj.MarshalJSON()
		p.apply(workers, string(text))
	}
	p.ready("gen1=pod-uid", "gen2=pod-uid")
	reader := p.open(kube.Options{})
	for kind, want := range map[discovery.Kind][]string{
		discovery.KindEndpoint: {"dynamo/backend/generate/2a", "dynamo/backend/generate/1c9a5dad7b0253"},
		discovery.KindModel:    {"dynamo/backend/generate/2a"},
		discovery.KindEventChannel: {
			"dynamo//kv_metrics/2a", "dynamo/backend/kv-events/2a",
			"namespace/dynamo/component/backend/endpoint/generate/topic/kv-events/7b",
		},
		discovery.KindEventSource: {"namespace/dynamo/component/backend/endpoint/generate/topic/kv-events/7b"},
	} {
		found, err := reader.List(p.Context(), discovery.Query{Kind: kind})
		var got []string
		for _, in := range found {
			got = append(got, in.ID().Path())
		}
		if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
			p.Errorf("%v: %v, %v, want %v", kind, got, err, want)
		}
	}
}

func podsComeAndGo(p place) {
	p.worker("a", "1", 7, "")
	p.worker("b", "2", 8, "")
	p.ready("a=1", "!b=2")
	w := p.watch(p.open(kube.Options{}), endpointQuery)
	w.expect("+7", "synced")
	p.ready("!a=1", "b=2") // one becomes ready, one not
	w.expect("-7", "+8")
	p.ready("a=1", "b=2")
	w.expect("+7")
	p.ready("a=1") // a is gone; its object is deleted later
	w.expect("-8")
	p.ready("a=1", "b=3") // b is a new pod of the same name, which has not registered yet
	p.worker("c", "4", 9, "")
	p.ready("a=1", "b=3", "c=4")
	w.expect("+9")
	p.worker("b", "3", 10, "")
	w.expect("+10")
	p.remove(workers, "c")
	w.expect("-9")
	p.remove(slices, "slice")
	w.expect("-7", "-10")
}

func containers(p place) {
	ready := func(pod, uid string, containers map[string]bool) { p.pods.put(p.namespace, pod, uid, containers, nil) }
	p.worker("a", "1", 7, "")
	p.worker("a-engine-0", "1", 8, "")
	p.worker("b-side", "2", 9, "")
	ready("a", "1", map[string]bool{"main": true, "engine-0": false})
	w := p.watch(p.open(kube.Options{Mode: kube.ModeContainer}), endpointQuery)
	w.expect("+7", "synced")
	ready("a", "1", map[string]bool{"main": false, "engine-0": true})
	w.expect("-7", "+8")
	p.pods.put(p.namespace, "b", "2", map[string]bool{"main": true, "side": true}, map[string]any{"nvidia.com/dynamo-main-container-name": "x"})
	w.expect("+9")
	p.pods.expire() // the watch cannot resume
	p.pods.remove(p.namespace, "a")
	w.expect("-8")
	ready("a", "3", map[string]bool{"main": true, "engine-0": true}) // objects of the former pod
	ready("a", "1", map[string]bool{"main": true})
	w.expect("+7")

	own := p.open(kube.Options{Mode: kube.ModeContainer, PodName: "c", PodUID: "4", Container: "engine-1"})
	e := discovery.Endpoint{Scope: discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "ep"}, Transport: discovery.TCP("10.0.0.8:1")}
	if _, err := own.Register(p.Context(), e); err != nil {
		p.Fatal(err)
	}
	ready("c", "4", map[string]bool{"engine-1": true})
	w.expect(fmt.Sprintf("+%d", kube.HashPodName("c-engine-1")))
	if owner := p.get("c-engine-1").GetOwnerReferences()[0]; owner.Name != "c" || *owner.Controller {
		p.Errorf("owner %+v", owner)
	}
}

func brokenObjects(p place) {
	p.worker("a", "1", 7, "")
	p.ready("a=1", "b=2", "c=3")
	client := p.open(kube.Options{})
	w := p.watch(client, endpointQuery)
	w.expect("+7", "synced")
	for _, data := range []string{`{"endpoints":7}`, `{"endpoints":{"x":{"type":"Endpoint"}}}`, `{"endpoints":null,"model_cards":[]}`} {
		p.apply(workers, workerYAML("a", "1", data))
	}
	p.worker("b", "2", 8, `,"event_channels":{"junk":"junk"}`)
	w.expect("+8") // the valid part of b; a keeps its last valid state
	if client.Stats().InvalidEntries == 0 {
		p.Error("the broken objects are not counted")
	}
	p.worker("a", "1", 9, "")
	w.expect("-7", "+9")
	p.apply(workers, workerYAML("a", "1", `{"endpoints":7}`))
	p.remove(workers, "a")
	w.expect("-9")
	p.apply(workers, workerYAML("a", "1", `{"endpoints":7}`)) // a new object, without a last valid state
	p.worker("c", "3", 10, "")
	w.expect("+10")
	p.apply(workers, workerYAML("c", "3", `{"endpoints":{}}`))
	w.expect("-10")
}

// register checks the object that a registration writes.
func register(p place) {
	pod := kube.Options{PodName: "worker-0", PodUID: "uid-1"}
	worker, reader := p.open(pod), p.open(kube.Options{})
	scope := discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}
	spec := discovery.Endpoint{Scope: scope, Transport: discovery.TCP("10.0.0.7:1/x/generate")}
	endpoint, err := worker.Register(p.Context(), spec)
	if err != nil {
		p.Fatal(err)
	}
	channelSpec := discovery.EventChannel{Scope: scope, Topic: "kv-events", Transport: discovery.ZMQ{Endpoint: "tcp://10.0.0.7:2"}}
	channel, err := worker.RegisterAs(p.Context(), 1<<53-1, channelSpec)
	if err != nil {
		p.Fatal(err)
	}
	model, err := discovery.NewModel(scope, map[string]any{"display_name": "m"}, "")
	if err != nil {
		p.Fatal(err)
	}
	if _, err := worker.Register(p.Context(), model); err != nil { // its own pod need not be ready
		p.Fatal(err)
	}

	obj := p.get("worker-0")
	owner, field := obj.GetOwnerReferences()[0], obj.GetManagedFields()[0]
	if owner.APIVersion != "v1" || owner.Kind != "Pod" || owner.Name != "worker-0" || owner.UID != "uid-1" ||
		!*owner.Controller || *owner.BlockOwnerDeletion {
		p.Errorf("owner %+v", owner)
	}
	if field.Manager != "dynamo-worker" || field.Operation != metav1.ManagedFieldsOperationApply {
		p.Errorf("managed by %+v", field)
	}
	for path, want := range map[string]string{
		"endpoints dynamo/backend/generate/43710f49c0cff instance_id":                                                            "1186445869714687",
		"model_cards dynamo/backend/generate/43710f49c0cff type":                                                                 `"Model"`,
		"event_channels namespace/dynamo/component/backend/endpoint/generate/topic/kv-events/1fffffffffffff instance_id":         "9007199254740991",
		"event_channels namespace/dynamo/component/backend/endpoint/generate/topic/kv-events/1fffffffffffff namespace":           `"dynamo"`,
		"event_channels namespace/dynamo/component/backend/endpoint/generate/topic/kv-events/1fffffffffffff component":           `"backend"`,
		"event_channels namespace/dynamo/component/backend/endpoint/generate/topic/kv-events/1fffffffffffff scope kind":          `"endpoint"`,
		"event_channels namespace/dynamo/component/backend/endpoint/generate/topic/kv-events/1fffffffffffff scope endpoint name": `"generate"`,
	} {
		value, _, err := unstructured.NestedFieldNoCopy(obj.Object, append([]string{"spec", "data"}, strings.Fields(path)...)...)
		if got, _ := json.Marshal(value); err != nil || string(got) != want {
			p.Errorf("%s: %s, %v, want %s", path, got, err, want)
		}
	}

	w := p.watch(reader, endpointQuery)
	w.expect("synced") // the pod is not ready
	p.ready("worker-0=uid-1")
	w.expect("+1186445869714687")
	if err := endpoint.Unregister(p.Context()); err != nil {
		p.Fatal(err)
	}
	w.expect("-1186445869714687")
	if err := channel.Unregister(p.Context()); err != nil {
		p.Fatal(err)
	}
	if err := worker.Shutdown(p.Context()); err != nil {
		p.Fatal(err)
	}
	if _, err := p.client.Resource(workers).Namespace(p.namespace).Get(p.Context(), "worker-0", metav1.GetOptions{}); err == nil {
		p.Error("the object outlived its worker")
	}
	if _, err := reader.Register(p.Context(), spec); err == nil || !strings.Contains(err.Error(), "POD_NAME") {
		p.Errorf("a reader registers: %v", err)
	}
	if _, err := reader.RegisterAs(p.Context(), 1<<53, spec); err == nil {
		p.Errorf("registered an id that is not exact")
	}
}

// writeThatFails: a failed write leaves the document unchanged.
func writeThatFails(p place) {
	worker := p.open(kube.Options{PodName: "worker-0", PodUID: "uid-1"})
	scope := discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "ep"}
	if _, err := worker.RegisterAs(p.Context(), 1, discovery.Endpoint{Scope: scope, Transport: discovery.TCP("a")}); err != nil {
		p.Fatal(err)
	}
	huge, err := discovery.NewModel(scope, map[string]any{"display_name": strings.Repeat("m", 4<<20)}, "")
	if err != nil {
		p.Fatal(err)
	}
	if _, err := worker.RegisterAs(p.Context(), 2, huge); err == nil {
		p.Fatal("registered a model of 4 MiB")
	}
	if _, err := worker.RegisterAs(p.Context(), 3, discovery.Endpoint{Scope: scope, Transport: discovery.TCP("b")}); err != nil {
		p.Fatal(err)
	}
	data, _, _ := unstructured.NestedMap(p.get("worker-0").Object, "spec", "data", "endpoints")
	if len(data) != 2 || data["ns/c/ep/1"] == nil || data["ns/c/ep/3"] == nil {
		p.Errorf("endpoints %v", data)
	}
	cards, _, _ := unstructured.NestedMap(p.get("worker-0").Object, "spec", "data", "model_cards")
	if len(cards) != 0 {
		p.Errorf("models %v", cards)
	}
}

// withoutDefinition: the error names the missing definition.
func withoutDefinition(p place) {
	o := kube.Options{Config: p.config(), Namespace: p.namespace}
	o.Config.Host += "/nowhere"
	store, err := kube.New(o)
	if err != nil {
		p.Fatal(err)
	}
	client := discovery.NewClient(store, discovery.Options{})
	p.Cleanup(func() { _ = client.Shutdown(context.Background()) })
	if _, err := client.List(p.Context(), endpointQuery); err == nil || errors.Is(err, context.DeadlineExceeded) ||
		!strings.Contains(err.Error(), "want its definition") {
		p.Fatalf("list: %v", err)
	}
}
