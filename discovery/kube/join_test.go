package kube

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "k8s.io/apimachinery/pkg/util/json"

	"github.com/dynplane/dynplane/discovery"
)

// parse parses an object as the API server's client does.
func parse(t testing.TB, raw string) *unstructured.Unstructured {
	t.Helper()
	var fields map[string]any
	if err := kjson.Unmarshal([]byte(raw), &fields); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return &unstructured.Unstructured{Object: fields}
}

func object(t testing.TB, file string) *unstructured.Unstructured {
	t.Helper()
	return parse(t, string(readFile(t, file)))
}

// workerJSON returns an object with one endpoint of the given instance id.
func workerJSON(name, uid, owner, created string, id uint64) string {
	return fmt.Sprintf(`{"metadata":{"name":%q,"uid":%q,"creationTimestamp":%q,"ownerReferences":[{"kind":"Pod","uid":%q}]},
		"spec":{"data":{"endpoints":{"ns/c/ep/%x":%s}}}}`, name, uid, created, owner, id, endpointJSON(id, name))
}

func endpointJSON(id uint64, address string) string {
	raw, _ := json.Marshal(discovery.Instance{InstanceID: id, Spec: discovery.Endpoint{
		Scope: discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "ep"}, Transport: discovery.TCP(address),
	}})
	return string(raw)
}

func TestReady(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		read func(*unstructured.Unstructured) []readyWorker
		in   string
		want []readyWorker
	}{
		{"slice", readyPods, `{"endpoints":[
			{"conditions":{"ready":true},"targetRef":{"kind":"Pod","name":"a","uid":"1"}},
			{"conditions":{"ready":false},"targetRef":{"kind":"Pod","name":"b","uid":"2"}},
			{"conditions":{},"targetRef":{"kind":"Pod","name":"c"}},
			{"targetRef":{"kind":"Pod","name":"d"}},
			{"conditions":{"ready":true}},
			{"conditions":{"ready":true},"targetRef":{"kind":"Pod","name":""}},
			{"conditions":{"ready":true},"targetRef":{"kind":"Node","name":"e"}},
			{"conditions":{"ready":true},"targetRef":{"kind":"Pod","name":"f"}},
			{"conditions":{"ready":true},"targetRef":{"kind":"Pod","name":"f","uid":""}},
			{"conditions":{"ready":true},"targetRef":{"name":"g","uid":"7"}}
		]}`, []readyWorker{{"a", "1"}, {"g", "7"}}},
		{"slice without endpoints", readyPods, `{"endpoints":null}`, nil},
		{"slice of unexpected types", readyPods, `{"endpoints":[1,{"conditions":7},{"conditions":{"ready":"yes"},"targetRef":[]}]}`, nil},
		{"slice whose endpoints are a string", readyPods, `{"endpoints":"none"}`, nil},
		{"pod", readyContainers, `{"metadata":{"name":"p","uid":"1"},"status":{"containerStatuses":[
			{"name":"main","ready":true},{"name":"engine-0","ready":true},{"name":"engine-1","ready":false},{"ready":true},{"name":"x"}
		]}}`, []readyWorker{{"p", "1"}, {"p-engine-0", "1"}}},
		{"pod whose main container has another name", readyContainers, `{"metadata":{"name":"p","uid":"1","annotations":{"nvidia.com/dynamo-main-container-name":" engine "}},
			"status":{"containerStatuses":[{"name":"main","ready":true},{"name":"engine","ready":true}]}}`,
			[]readyWorker{{"p-main", "1"}, {"p", "1"}}},
		{"pod without status", readyContainers, `{"metadata":{"name":"p"}}`, nil},
	} {
		if got := c.read(parse(t, c.in)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	const older, newer = "2026-08-01T10:00:00Z", "2026-08-01T11:00:00Z"
	for _, c := range []struct {
		name    string
		ready   []readyWorker
		workers []string
		want    string // id=address, ordered by id
	}{
		{"nothing", nil, nil, ""},
		{"ready and registered", []readyWorker{{"a", "1"}}, []string{workerJSON("a", "x", "1", older, 7)}, "7=a"},
		{"ready in two slices", []readyWorker{{"a", "1"}, {"a", "1"}}, []string{workerJSON("a", "x", "1", older, 7)}, "7=a"},
		{"not ready", []readyWorker{{"b", "1"}}, []string{workerJSON("a", "x", "1", older, 7)}, ""},
		{"not registered", []readyWorker{{"a", "1"}}, nil, ""},
		{"another pod of the same name", []readyWorker{{"a", "2"}}, []string{workerJSON("a", "x", "1", older, 7)}, ""},
		{"the owner's UID is unknown", []readyWorker{{"a", "2"}}, []string{workerJSON("a", "x", "", older, 7)}, ""},
		{"both UIDs are unknown", []readyWorker{{"a", ""}}, []string{workerJSON("a", "x", "", older, 7)}, ""},
		{"an old slice beside the new", []readyWorker{{"a", "1"}, {"a", "2"}}, []string{workerJSON("a", "x", "2", older, 7)}, "7=a"},
		{
			"several",
			[]readyWorker{{"a", "1"}, {"b", "2"}},
			[]string{workerJSON("a", "x", "1", older, 7), workerJSON("b", "y", "2", older, 8), workerJSON("c", "z", "3", older, 9)},
			"7=a 8=b",
		},
		{
			"one id twice: the object created last",
			[]readyWorker{{"a", "1"}, {"b", "2"}},
			[]string{workerJSON("a", "x", "1", newer, 7), workerJSON("b", "y", "2", older, 7)},
			"7=a",
		},
		{
			"one id twice, created at once: by name",
			[]readyWorker{{"a", "1"}, {"b", "2"}},
			[]string{workerJSON("a", "x", "1", older, 7), workerJSON("b", "y", "2", older, 7)},
			"7=b",
		},
	} {
		workers := map[string]*worker{}
		for _, raw := range c.workers {
			obj := parse(t, raw)
			workers[obj.GetName()] = readWorker(obj, nil)
		}
		if got := endpoints(t, join(discovery.Query{Kind: discovery.KindEndpoint}, c.ready, workers)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if got := join(discovery.Query{Kind: discovery.KindModel}, c.ready, workers); len(got) != 0 {
			t.Errorf("%s: models %v", c.name, got)
		}
	}
}

func endpoints(t *testing.T, entries map[discovery.ID]entry) string {
	t.Helper()
	var out []string
	for _, id := range sortedIDs(entries) {
		var in discovery.Instance
		if err := json.Unmarshal(entries[id].value, &in); err != nil || in.ID() != id {
			t.Fatalf("%v: %s, %v", id, entries[id].value, err)
		}
		out = append(out, fmt.Sprintf("%d=%s", id.Instance, in.Spec.(discovery.Endpoint).Transport.Address))
	}
	return strings.Join(out, " ")
}

func TestReadWorkerBroken(t *testing.T) {
	t.Parallel()
	meta := `{"metadata":{"name":"a","uid":"x","ownerReferences":[{"kind":"Pod","uid":"1"}]},"spec":`
	for _, c := range []struct{ name, raw, fresh string }{
		{"null", meta + `{"data":null}}`, ""},
		{"no data", meta + `{}}`, ""},
		{"no spec", meta + `null}`, ""},
		{"spec is a string", meta + `"nothing"}`, ""},
		{"data is a string", meta + `{"data":"nothing"}}`, ""},
		{"a map is a number", meta + `{"data":{"endpoints":7}}}`, ""},
		{"one entry is invalid", meta + `{"data":{"endpoints":{"junk":{"type":"Endpoint"},"ns/c/ep/8":` + endpointJSON(8, "b") + `}}}}`, "8=b"},
	} {
		ready, query := []readyWorker{{"a", "1"}}, discovery.Query{Kind: discovery.KindEndpoint}
		last := readWorker(parse(t, workerJSON("a", "x", "1", "", 7)), nil)
		for _, former := range []struct {
			what string
			last *worker
			want string
		}{
			{"nothing", nil, c.fresh},
			{"the same object", last, "7=a"},
			{"the same object, broken already", readWorker(parse(t, meta+`{"data":null}}`), last), "7=a"},
			{"another object of the name", readWorker(parse(t, workerJSON("a", "y", "1", "", 7)), nil), c.fresh},
			{"the object of another pod", readWorker(parse(t, workerJSON("a", "x", "2", "", 7)), nil), c.fresh},
		} {
			w := readWorker(parse(t, c.raw), former.last)
			if w.err == nil {
				t.Errorf("%s: no error", c.name)
			}
			if got := endpoints(t, join(query, ready, map[string]*worker{"a": w})); got != former.want {
				t.Errorf("%s after %s: %q, want %q", c.name, former.what, got, former.want)
			}
		}
	}
	empty := readWorker(parse(t, meta+`{"data":{}}}`), readWorker(parse(t, workerJSON("a", "x", "1", "", 7)), nil))
	if empty.err != nil || len(empty.doc.Instances()) != 0 {
		t.Errorf("an empty document, of a worker that has unregistered, is read as %+v", empty)
	}
}

func FuzzReadWorker(f *testing.F) {
	f.Add([]byte(workerJSON("a", "x", "1", "2026-08-01T10:00:00Z", 7)))
	f.Add([]byte(`{"spec":{"data":{"endpoints":null,"event_channels":[{}]}}}`))
	f.Add([]byte(`{"metadata":{"ownerReferences":[7],"creationTimestamp":1},"spec":{"data":{"model_cards":{"":{}}}},"endpoints":[{}],"status":{"containerStatuses":[{"ready":true}]}}`))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		var fields map[string]any
		if kjson.Unmarshal(raw, &fields) != nil || fields == nil {
			return
		}
		obj := &unstructured.Unstructured{Object: fields}
		w := readWorker(obj, nil)
		readWorker(obj, w)
		join(discovery.Query{}, append(readyPods(obj), readyContainers(obj)...), map[string]*worker{obj.GetName(): w})
	})
}
