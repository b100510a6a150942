package kube

import (
	"cmp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/dynplane/dynplane/discovery"
)

// mainAnnotation names the main container of a pod, if it is not main.
const mainAnnotation = "nvidia.com/dynamo-main-container-name"

// readyWorker is a pod or container that is ready.
type readyWorker struct {
	object string // the name of its object, which may not exist
	podUID string
}

// readyPods returns the pods that an EndpointSlice lists as ready. Like Dynamo it
// skips an endpoint without the UID of its pod: the name alone would also match
// the object of an earlier pod of that name, whose worker is gone.
func readyPods(slice *unstructured.Unstructured) []readyWorker {
	var out []readyWorker
	for _, endpoint := range objects(slice.Object, "endpoints") {
		ready, _, _ := unstructured.NestedBool(endpoint, "conditions", "ready")
		kind, _, _ := unstructured.NestedString(endpoint, "targetRef", "kind")
		name, _, _ := unstructured.NestedString(endpoint, "targetRef", "name")
		uid, _, _ := unstructured.NestedString(endpoint, "targetRef", "uid")
		if ready && name != "" && uid != "" && (kind == "Pod" || kind == "") {
			out = append(out, readyWorker{name, uid})
		}
	}
	return out
}

// readyContainers returns the containers of a Pod that are ready. A Pod has a UID.
func readyContainers(pod *unstructured.Unstructured) []readyWorker {
	var out []readyWorker
	main := strings.TrimSpace(pod.GetAnnotations()[mainAnnotation])
	for _, status := range objects(pod.Object, "status", "containerStatuses") {
		ready, _, _ := unstructured.NestedBool(status, "ready")
		name, _, _ := unstructured.NestedString(status, "name")
		if ready && name != "" {
			out = append(out, readyWorker{containerObject(pod.GetName(), name, main), string(pod.GetUID())})
		}
	}
	return out
}

// objects returns the elements of a list that are JSON objects. Elements of
// another type are skipped.
func objects(obj map[string]any, fields ...string) []map[string]any {
	list, _, _ := unstructured.NestedFieldNoCopy(obj, fields...)
	elements, _ := list.([]any)
	var out []map[string]any
	for _, element := range elements {
		if fields, ok := element.(map[string]any); ok {
			out = append(out, fields)
		}
	}
	return out
}

// entry is a registration, with the object that contains it.
type entry struct {
	object  string // its name
	created string // its creation, in RFC 3339
	value   []byte
}

// join returns the registrations in the objects of ready workers that match q. The
// owner of an object must be the pod that is ready, by name and UID. Of several registrations under one id it returns that in the newest object.
func join(q discovery.Query, ready []readyWorker, workers map[string]*worker) map[discovery.ID]entry {
	isReady := map[readyWorker]bool{}
	for _, r := range ready {
		isReady[r] = true
	}
	out := map[discovery.ID]entry{}
	for name, w := range workers {
		if w.podUID == "" || !isReady[readyWorker{name, w.podUID}] {
			continue
		}
		for _, in := range w.doc.Filter(q) {
			e := entry{name, w.created, in.Raw}
			if other, ok := out[in.ID()]; !ok || cmp.Or(cmp.Compare(other.created, e.created), cmp.Compare(other.object, name)) < 0 {
				out[in.ID()] = e
			}
		}
	}
	return out
}
