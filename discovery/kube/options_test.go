package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

func TestFromEnv(t *testing.T) {
	t.Parallel()
	mounted := fstest.MapFS{"pod_name": {Data: []byte("mounted\n")}, "pod_uid": {Data: []byte(" \n")}}
	for _, c := range []struct {
		name   string
		env    map[string]string
		files  fstest.MapFS
		want   Options
		object string
		id     uint64
	}{
		{name: "nothing", want: Options{Mode: ModePod}},
		{
			name:   "pod",
			env:    map[string]string{"POD_NAME": "worker-0", "POD_UID": "u", "POD_NAMESPACE": "dynamo", "CONTAINER_NAME": "engine-0"},
			want:   Options{Mode: ModePod, PodName: "worker-0", PodUID: "u", Namespace: "dynamo", Container: "engine-0"},
			object: "worker-0", id: 1186445869714687,
		},
		{
			name:   "container",
			env:    map[string]string{"DYN_KUBE_DISCOVERY_MODE": "container", "POD_NAME": "worker-0", "CONTAINER_NAME": "engine-0"},
			want:   Options{Mode: ModeContainer, PodName: "worker-0", Container: "engine-0"},
			object: "worker-0-engine-0", id: 8051026481054291,
		},
		{
			name:   "main container",
			env:    map[string]string{"DYN_KUBE_DISCOVERY_MODE": "container", "POD_NAME": "worker-0", "CONTAINER_NAME": "main"},
			want:   Options{Mode: ModeContainer, PodName: "worker-0", Container: "main"},
			object: "worker-0", id: 1186445869714687,
		},
		{
			name: "main container of another name",
			env: map[string]string{
				"DYN_KUBE_DISCOVERY_MODE": "container", "POD_NAME": "worker-0", "CONTAINER_NAME": "main", "DYN_MAIN_CONTAINER_NAME": " vllm ",
			},
			want:   Options{Mode: ModeContainer, PodName: "worker-0", Container: "main", MainContainer: "vllm"},
			object: "worker-0-main", id: HashPodName("worker-0-main"),
		},
		{
			name:   "files come first",
			env:    map[string]string{"POD_NAME": "env", "POD_UID": "env"},
			files:  mounted,
			want:   Options{Mode: ModePod, PodName: "mounted", PodUID: "env"},
			object: "mounted", id: HashPodName("mounted"),
		},
		{
			name: "home outside a cluster",
			env:  map[string]string{"HOME": "/home/me"},
			want: Options{Mode: ModePod, Kubeconfig: "/home/me/.kube/config"},
		},
		{
			name: "kubeconfig",
			env:  map[string]string{"HOME": "/home/me", "KUBECONFIG": "/a:/b"},
			want: Options{Mode: ModePod, Kubeconfig: "/a:/b"},
		},
		{
			name: "in a cluster",
			env:  map[string]string{"HOME": "/home/me", "KUBERNETES_SERVICE_HOST": "10.0.0.1"},
			want: Options{Mode: ModePod},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := fromEnv(lookup(c.env), c.files)
			if err != nil || got != c.want {
				t.Fatalf("got %+v, %v, want %+v", got, err, c.want)
			}
			if got.objectName() != c.object || got.InstanceID() != c.id {
				t.Fatalf("object %q, id %d, want %q, %d", got.objectName(), got.InstanceID(), c.object, c.id)
			}
		})
	}
	if _, err := FromEnv(lookup(map[string]string{"DYN_KUBE_DISCOVERY_MODE": "Pod"})); err == nil ||
		!strings.Contains(err.Error(), `"Pod": want pod or container`) {
		t.Fatalf("mode Pod: %v", err)
	}
}

func lookup(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	}
}

const kubeconfig = `apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: "https://127.0.0.1:1"}}]
contexts: [{name: here, context: {cluster: here, namespace: dynamo}}]
`

func TestConnection(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ given, want string }{{"", "dynamo"}, {"other", "other"}} {
		config, namespace, err := Options{Kubeconfig: file, Namespace: c.given}.connection()
		if err != nil || config.Host != "https://127.0.0.1:1" || namespace != c.want {
			t.Fatalf("namespace %q: %+v, %q, %v, want %q", c.given, config, namespace, err, c.want)
		}
	}
	missing := filepath.Join(t.TempDir(), "missing")
	if _, err := New(Options{Kubeconfig: missing}); err == nil || !strings.Contains(err.Error(), missing+": no such file, or an empty one: want a file that KUBECONFIG names") {
		t.Fatalf("a missing kubeconfig: %v", err)
	}
	if _, err := New(Options{Mode: "node"}); err == nil || !strings.Contains(err.Error(), `"node"`) {
		t.Fatalf("mode node: %v", err)
	}
}
