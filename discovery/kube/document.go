package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dynplane/dynplane/discovery"
)

// The names of Dynamo for the object of a worker, and for itself as its writer.
const (
	workerGroup   = "nvidia.com"
	workerVersion = "v1alpha1"
	workerPlural  = "dynamoworkermetadatas"
	workerKind    = "DynamoWorkerMetadata"
	fieldManager  = "dynamo-worker"
)

func workerResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: workerGroup, Version: workerVersion, Resource: workerPlural}
}

// parseInstance parses a value to be registered. It completes the fields scope,
// namespace and component of an event channel, so that both generations of Dynamo
// can read it.
func parseInstance(id discovery.ID, value []byte) (discovery.Instance, error) {
	var in discovery.Instance
	if id.Instance > maxID {
		return in, fmt.Errorf("%w: instance id %d: want at most %d, which Kubernetes keeps exact", discovery.ErrUnstorable, id.Instance, uint64(maxID))
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

// workerObject returns the object of a worker with its document, for server-side
// apply. The pod owns the object, so that it is deleted with the pod and does not
// delay that. A pod is the controller of one object, that of its main container. If
// uid is not empty, the object must have it.
func workerObject(o Options, uid types.UID, doc discovery.Metadata) ([]byte, error) {
	metadata := map[string]any{
		"name": o.objectName(),
		"ownerReferences": []any{map[string]any{
			"apiVersion": "v1", "kind": "Pod", "name": o.PodName, "uid": o.PodUID,
			"controller": o.objectName() == o.PodName, "blockOwnerDeletion": false,
		}},
	}
	if uid != "" {
		metadata["uid"] = uid
	}
	raw, err := json.Marshal(map[string]any{
		"apiVersion": workerGroup + "/" + workerVersion,
		"kind":       workerKind,
		"metadata":   metadata,
		"spec":       map[string]any{"data": doc},
	})
	return asYAML(raw), err
}

// asYAML escapes the characters that are valid in strings of JSON but not of YAML,
// since the API server parses an applied object as YAML.
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

// worker is the object of a worker.
type worker struct {
	uid     string // of the object
	podUID  string // of the pod that owns it; empty if unknown
	created string // its creation, in RFC 3339
	doc     discovery.Metadata
	err     error // why the object, or a part of it, cannot be read
}

// readWorker reads an object. If a part of it cannot be read, the document is that
// of last, the former state, if last is of the same object and pod; otherwise it
// is the readable part.
func readWorker(obj *unstructured.Unstructured, last *worker) *worker {
	w := &worker{
		uid:     string(obj.GetUID()),
		created: obj.GetCreationTimestamp().UTC().Format("2006-01-02T15:04:05Z"),
	}
	for _, ref := range obj.GetOwnerReferences() {
		if ref.Kind == "Pod" {
			w.podUID = string(ref.UID)
		}
	}
	w.doc, w.err = readDocument(obj)
	if w.err != nil && last != nil && last.uid == w.uid && last.podUID == w.podUID {
		w.doc = last.doc
	}
	return w
}

// readDocument returns what it could read, together with an error.
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
