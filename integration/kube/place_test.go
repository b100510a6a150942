package kube

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/kube"
	"github.com/dynplane/dynplane/internal/waittest"
)

// place is a namespace of a cluster.
type place struct {
	*testing.T
	*cluster
	namespace string
}

// in returns a namespace of the test's own.
func (c *cluster) in(t *testing.T) place {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", ".", "-").Replace(t.Name()))
	return place{t, c, name}
}

// open returns a client. In pod mode its pod, if it has one, is ready.
func (p place) open(o kube.Options) *discovery.Client {
	p.Helper()
	o.Config, o.Namespace = p.config(), p.namespace
	store, err := kube.New(o)
	if err != nil {
		p.Fatal(err)
	}
	client := discovery.NewClient(store, discovery.Options{InstanceID: o.InstanceID()})
	p.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
		defer cancel()
		if err := client.Shutdown(ctx); err != nil {
			p.Errorf("shutdown: %v", err)
		}
	})
	return client
}

// apply writes an object as kubectl apply --server-side does.
func (p place) apply(resource schema.GroupVersionResource, text string) {
	p.Helper()
	obj := fromYAML(p.T, text)
	if _, err := p.client.Resource(resource).Namespace(p.namespace).Apply(p.Context(), obj.GetName(), obj,
		metav1.ApplyOptions{FieldManager: "dynamo-worker", Force: true}); err != nil {
		p.Fatal(err)
	}
}

func (p place) remove(resource schema.GroupVersionResource, name string) {
	p.Helper()
	if err := p.client.Resource(resource).Namespace(p.namespace).Delete(p.Context(), name, metav1.DeleteOptions{}); err != nil {
		p.Fatal(err)
	}
}

func (p place) get(name string) *unstructured.Unstructured {
	p.Helper()
	obj, err := p.client.Resource(workers).Namespace(p.namespace).Get(p.Context(), name, metav1.GetOptions{})
	if err != nil {
		p.Fatal(err)
	}
	return obj
}

// ready writes the EndpointSlice of pods, each NAME=UID, or !NAME=UID if it is
// not ready.
func (p place) ready(pods ...string) {
	p.Helper()
	var endpoints strings.Builder
	for _, pod := range pods {
		name, uid, _ := strings.Cut(pod, "=")
		state := !strings.HasPrefix(name, "!")
		fmt.Fprintf(&endpoints, `{"addresses":["10.0.0.7"],"conditions":{"ready":%v},"targetRef":{"kind":"Pod","name":%q,"uid":%q}},`,
			state, strings.TrimPrefix(name, "!"), uid)
	}
	p.apply(slices, fmt.Sprintf(`{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4","metadata":{"name":"slice",
		"labels":{"nvidia.com/dynamo-discovery-backend":"kubernetes","nvidia.com/dynamo-discovery-enabled":"true"}},"endpoints":[%s]}`,
		strings.TrimSuffix(endpoints.String(), ",")))
}

// worker writes the object of a worker with one endpoint. more is added to its
// document.
func (p place) worker(name, podUID string, id uint64, more string) {
	p.Helper()
	p.apply(workers, workerYAML(name, podUID, fmt.Sprintf(`{"endpoints":{"ns/c/ep/%x":{"type":"Endpoint","namespace":"ns","component":"c",
		"endpoint":"ep","instance_id":%d,"transport":{"tcp":"10.0.0.7:1/%x/ep"}}}%s}`, id, id, id, more)))
}

func workerYAML(name, podUID, data string) string {
	return fmt.Sprintf(`{"apiVersion":"nvidia.com/v1alpha1","kind":"DynamoWorkerMetadata","metadata":{"name":%q,
		"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":false}]},
		"spec":{"data":%s}}`, name, name, podUID, data)
}

var endpointQuery = discovery.Query{Kind: discovery.KindEndpoint}

// watching pulls the events of a watch one by one.
type watching struct {
	place
	next func() (discovery.Event, error, bool)
}

func (p place) watch(client *discovery.Client, q discovery.Query) watching {
	ctx, cancel := context.WithTimeout(p.Context(), 3*waittest.Patience)
	p.Cleanup(cancel)
	next, stop := iter.Pull2(client.Watch(ctx, q))
	p.Cleanup(stop)
	return watching{p, next}
}

// expect requires the next events, each + or - and an instance id, or synced.
func (w watching) expect(wants ...string) {
	w.Helper()
	for _, want := range wants {
		ev, err, ok := w.next()
		if !ok || err != nil {
			w.Fatalf("the watch ended (%v), want %s", err, want)
		}
		if got := describe(ev); got != want {
			w.Fatalf("got %s, want %s", got, want)
		}
	}
}

// expectAll requires the next events in any order.
func (w watching) expectAll(wants ...string) {
	w.Helper()
	got := map[string]bool{}
	for range wants {
		ev, err, ok := w.next()
		if !ok || err != nil {
			w.Fatalf("the watch ended (%v), want %v", err, wants)
		}
		got[describe(ev)] = true
	}
	for _, want := range wants {
		if !got[want] {
			w.Fatalf("got %v, want %v", got, wants)
		}
	}
}

func describe(ev discovery.Event) string {
	switch ev.Type {
	case discovery.Added:
		return fmt.Sprintf("+%d", ev.Instance.InstanceID)
	case discovery.Removed:
		return fmt.Sprintf("-%d", ev.Instance.InstanceID)
	default:
		return ev.Type.String()
	}
}
