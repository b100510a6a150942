package kube

import (
	"cmp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/dynplane/dynplane/discovery"
)

// mainAnnotation names the container that stands for its pod, where it is not
// main.
const mainAnnotation = "nvidia.com/dynamo-main-container-name"

// target is a pod or container that is ready.
type target struct {
	object string // the name of the object that it would have
	pod    string // the UID of the pod; empty is unknown
}

// readySlice returns the pods that an EndpointSlice says are ready.
func readySlice(slice *unstructured.Unstructured) []target {
	var out []target
	for _, endpoint := range objects(slice.Object, "endpoints") {
		ready, _, _ := unstructured.NestedBool(endpoint, "conditions", "ready")
		kind, _, _ := unstructured.NestedString(endpoint, "targetRef", "kind")
		name, _, _ := unstructured.NestedString(endpoint, "targetRef", "name")
		uid, _, _ := unstructured.NestedString(endpoint, "targetRef", "uid")
		if ready && name != "" && (kind == "Pod" || kind == "") {
			out = append(out, target{name, uid})
		}
	}
	return out
}

// readyPod returns the containers of a Pod that are ready.
func readyPod(pod *unstructured.Unstructured) []target {
	var out []target
	main := strings.TrimSpace(pod.GetAnnotations()[mainAnnotation])
	for _, status := range objects(pod.Object, "status", "containerStatuses") {
		ready, _, _ := unstructured.NestedBool(status, "ready")
		name, _, _ := unstructured.NestedString(status, "name")
		if ready && name != "" {
			out = append(out, target{containerObject(pod.GetName(), name, main), string(pod.GetUID())})
		}
	}
	return out
}

// objects returns the elements of a list that are objects. What has not the form
// of its kind is not there.
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

// entry is a registration, and the object in which it stands.
type entry struct {
	object  string // its name
	created string // when, in RFC 3339
	value   []byte
}

// join returns what a query finds in the objects of those that are ready. Of
// several registrations under one id it is the one in the object that was
// created last.
func join(q discovery.Query, ready []target, workers map[string]*worker) map[discovery.ID]entry {
	alive := map[target]bool{}
	named := map[string]bool{}
	for _, t := range ready {
		alive[t], named[t.object] = true, true
	}
	out := map[discovery.ID]entry{}
	for name, w := range workers {
		// Where one side does not know the UID of the pod, the name has to do.
		if !alive[target{name, w.owner}] && !alive[target{name, ""}] && (w.owner != "" || !named[name]) {
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
