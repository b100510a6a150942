package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/dynplane/dynplane/discovery"
)

// What the runtime calls the object of a worker, and itself.
const (
	workerGroup    = "nvidia.com"
	workerVersion  = "v1alpha1"
	workerResource = "dynamoworkermetadatas"
	workerKind     = "DynamoWorkerMetadata"
	fieldManager   = "dynamo-worker"
)

func workers() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: workerGroup, Version: workerVersion, Resource: workerResource}
}

// parseInstance reads what a worker registers. Event channels get what is
// missing of namespace, component and scope, so that both generations of the
// runtime can read them.
func parseInstance(id discovery.ID, value []byte) (discovery.Instance, error) {
	var in discovery.Instance
	if id.Instance > maxID {
		return in, fmt.Errorf("instance id %d: want at most %d, which Kubernetes keeps exact", id.Instance, uint64(maxID))
	}
	if err := json.Unmarshal(value, &in); err != nil {
		return in, err
	}
	channel, ok := in.Spec.(discovery.EventChannel)
	if !ok {
		return in, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(value, &fields); err != nil {
		return in, err
	}
	for name, part := range map[string]any{
		"scope": channel.Scope, "namespace": channel.Scope.Namespace, "component": channel.Scope.Component,
	} {
		if _, ok := fields[name]; ok {
			continue
		}
		raw, err := json.Marshal(part)
		if err != nil {
			return in, err
		}
		fields[name] = raw
	}
	var err error
	in.Raw, err = json.Marshal(fields)
	return in, err
}

// workerObject is what server-side apply is given: the document of a worker in
// an object that its pod owns, and takes with it without waiting for that. A
// pod controls one object, that of its main container.
func workerObject(o Options, doc discovery.Metadata) ([]byte, error) {
	raw, err := json.Marshal(map[string]any{
		"apiVersion": workerGroup + "/" + workerVersion,
		"kind":       workerKind,
		"metadata": map[string]any{
			"name": o.objectName(),
			"ownerReferences": []any{map[string]any{
				"apiVersion": "v1", "kind": "Pod", "name": o.PodName, "uid": o.PodUID,
				"controller": o.objectName() == o.PodName, "blockOwnerDeletion": false,
			}},
		},
		"spec": map[string]any{"data": doc},
	})
	return asYAML(raw), err
}

// asYAML escapes the characters that strings of JSON may hold as they are and
// those of YAML, as which the API server reads what is applied, may not.
func asYAML(raw []byte) []byte {
	var out []byte
	for _, r := range string(raw) {
		if r >= 0x7f && r <= 0x9f || r == 0xfeff || r >= 0xfffe && r <= 0xffff {
			out = fmt.Appendf(out, `\u%04x`, r)
		} else {
			out = utf8.AppendRune(out, r)
		}
	}
	return out
}

// worker is the object of a worker as it was read.
type worker struct {
	uid     string // of the object
	owner   string // the UID of its pod; empty is unknown
	created string // when, in RFC 3339
	doc     discovery.Metadata
	err     error // what of it could not be read
}

// readWorker reads an object. One that is broken has the document of last, the
// state before, if that was of the same object and pod; else what can be read.
func readWorker(obj *unstructured.Unstructured, last *worker) *worker {
	w := &worker{
		uid:     string(obj.GetUID()),
		created: obj.GetCreationTimestamp().UTC().Format("2006-01-02T15:04:05Z"),
	}
	for _, ref := range obj.GetOwnerReferences() {
		if ref.Kind == "Pod" {
			w.owner = string(ref.UID)
		}
	}
	w.doc, w.err = readDocument(obj)
	if w.err != nil && last != nil && last.uid == w.uid && last.owner == w.owner {
		w.doc = last.doc
	}
	return w
}

func readDocument(obj *unstructured.Unstructured) (discovery.Metadata, error) {
	var doc discovery.Metadata
	data, _, err := unstructured.NestedFieldNoCopy(obj.Object, "spec", "data")
	if err != nil {
		return doc, err
	}
	if data == nil {
		return doc, errors.New("no spec.data: want a document of registrations")
	}
	raw, err := json.Marshal(data)
	if err != nil {
		return doc, err
	}
	err = json.Unmarshal(raw, &doc)
	return doc, err
}
