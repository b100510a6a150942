package kube

import (
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/discovery/kube"
	"github.com/dynplane/dynplane/eventplane"
)

// environment is the environment of a container, and the set of names that were
// looked up in it.
type environment struct {
	values  map[string]string
	lookups sets.Set[string]
}

func (e environment) lookup(name string) (string, bool) {
	e.lookups.Insert(name)
	value, ok := e.values[name]
	return value, ok
}

// environmentOf resolves the variables of a container as the kubelet does.
func environmentOf(t *testing.T, m manifests, c corev1.Container) environment {
	t.Helper()
	fields := map[string]string{
		"metadata.name": "worker-0", "metadata.uid": "uid-0",
		"metadata.namespace": "dynplane", "status.podIP": "10.0.0.7",
	}
	// Variables of every container.
	e := environment{map[string]string{"HOME": "/", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}, sets.New[string]()}
	for _, from := range c.EnvFrom {
		maps.Copy(e.values, of[*corev1.ConfigMap](m)[from.ConfigMapRef.Name].Data)
	}
	for _, v := range c.Env {
		e.values[v.Name] = v.Value
		if v.ValueFrom == nil {
			continue
		}
		value, ok := fields[v.ValueFrom.FieldRef.FieldPath]
		if !ok {
			t.Errorf("%s: field %s, want one of %v", v.Name, v.ValueFrom.FieldRef.FieldPath, sets.List(sets.KeySet(fields)))
		}
		e.values[v.Name] = value
	}
	return e
}

// TestManifestsEnvironment reads the variables as our programs do: they look up
// each of them, and accept its value.
func TestManifestsEnvironment(t *testing.T) {
	t.Parallel()
	m := render(t)
	for name, w := range m.workloads() {
		if name == "nats" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			container := w.template.Spec.Containers[0]
			env := environmentOf(t, m, container)
			plane, err := eventplane.ConfigFromEnv(env.lookup)
			if err != nil {
				t.Fatal(err)
			}
			if plane.Transport != "zmq" || !plane.Broker.Discover {
				t.Errorf("event plane: %s; want brokers by discovery", plane.Reason)
			}
			checkNATS(t, m, env)
			checkOptions(t, w, env)
			if unknown := sets.KeySet(env.values).Difference(env.lookups); len(unknown) > 0 {
				t.Errorf("our programs do not read %v", sets.List(unknown))
			}
		})
	}
}

func checkOptions(t *testing.T, w workload, env environment) {
	t.Helper()
	options, err := kube.FromEnv(env.lookup)
	if err != nil {
		t.Fatal(err)
	}
	if options.Mode != kube.ModePod || options.Kubeconfig != "" {
		t.Errorf("mode %s, kubeconfig %q; want pods and the service account", options.Mode, options.Kubeconfig)
	}
	if name, err := backend.Name(env.lookup); err != nil || name != backend.Kubernetes {
		t.Errorf("backend %q, %v; want %s", name, err, backend.Kubernetes)
	}
	if !w.discoverable() {
		return
	}
	if options.PodName != "worker-0" || options.PodUID != "uid-0" || options.Namespace != "dynplane" {
		t.Errorf("pod %q of UID %q in namespace %q, want the pod's own", options.PodName, options.PodUID, options.Namespace)
	}
	if container := w.template.Spec.Containers[0].Name; options.Container != container {
		t.Errorf("CONTAINER_NAME %q, want the container's, %s", options.Container, container)
	}
	if host, err := eventplane.HostFromEnv(env.lookup); err != nil || host != "10.0.0.7" {
		t.Errorf("advertises %q, %v; want the pod's address", host, err)
	}
}

// TestManifestsDiscoverable: pods that register are behind a Service, through
// which readers detect that they are ready.
func TestManifestsDiscoverable(t *testing.T) {
	t.Parallel()
	m := render(t)
	for name, w := range m.workloads() {
		if !w.discoverable() {
			continue
		}
		service := of[*corev1.Service](m)[name]
		if service == nil || service.Spec.PublishNotReadyAddresses {
			t.Errorf("service %s: %v, want one with the ready pods only", name, service)
			continue
		}
		for _, o := range []metav1.Object{service, &w.template} {
			if l := o.GetLabels(); l["nvidia.com/dynamo-discovery-backend"] != "kubernetes" || l["nvidia.com/dynamo-discovery-enabled"] != "true" {
				t.Errorf("%s: labels %v of %T, want those of discovery", name, l, o)
			}
		}
		if len(w.template.Spec.Containers) != 1 {
			t.Errorf("%s has %d containers, want 1: in the mode of pods they would share one object", name, len(w.template.Spec.Containers))
		}
	}
}
