package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

// Get implements discovery.Store. It lists both resources, since the id does not
// show in which object it is.
func (s *Store) Get(ctx context.Context, id discovery.ID) ([]byte, error) {
	if s.isClosed() {
		return nil, discovery.ErrClosed
	}
	ctx, cancel := wait.Until(ctx, s.life)
	defer cancel()
	value, err := s.find(ctx, id, "")
	return value, s.closedOr(err)
}

// find returns the value of an id in an object other than without.
func (s *Store) find(ctx context.Context, id discovery.ID, without string) ([]byte, error) {
	resource, read := s.readiness()
	workers := map[string]*worker{}
	ready := map[string][]readyWorker{}
	_, err := s.retry(ctx, attached, func(ctx context.Context) error {
		return s.list(ctx, workerResource(), "", func(obj *unstructured.Unstructured) {
			workers[obj.GetName()] = readWorker(obj, nil)
		})
	})
	if err == nil {
		_, err = s.retry(ctx, attached, func(ctx context.Context) error {
			return s.list(ctx, resource, discoverable, func(obj *unstructured.Unstructured) {
				ready[obj.GetName()] = read(obj)
			})
		})
	}
	if err != nil {
		return nil, err
	}
	delete(workers, without)
	present := slices.Concat(slices.Collect(maps.Values(ready))...)
	if self, ok := s.self(); ok {
		present = append(present, self)
	}
	q := discovery.Query{Kind: id.Kind, Scope: id.Scope, Topic: id.Topic, Exact: true}
	e, ok := join(q, present, workers)[id]
	if !ok {
		return nil, fmt.Errorf("%s in %s: %w", id, s.namespace, discovery.ErrNotFound)
	}
	return e.value, nil
}

// readiness returns the resource that shows which workers are ready, and how it is
// read.
func (s *Store) readiness() (schema.GroupVersionResource, func(*unstructured.Unstructured) []readyWorker) {
	if s.opt.Mode == ModeContainer {
		return schema.GroupVersionResource{Version: "v1", Resource: "pods"}, readyContainers
	}
	return schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}, readyPods
}

// list calls each with the present objects of a resource.
func (s *Store) list(ctx context.Context, resource schema.GroupVersionResource, labels string, each func(*unstructured.Unstructured)) error {
	list, err := s.client.Resource(resource).Namespace(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: labels})
	if err != nil {
		return err
	}
	for i := range list.Items {
		each(&list.Items[i])
	}
	return nil
}
