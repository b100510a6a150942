package backend_test

import (
	"context"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.IgnoreServer()) }

func env(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		value, ok := vars[name]
		return value, ok
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	for _, c := range []struct {
		name    string
		vars    map[string]string
		options backend.Options
		want    string // in the error; none if empty
	}{
		{"default", map[string]string{"NATS_SERVER": server.URL()}, backend.Options{}, ""},
		{"empty", map[string]string{"DYN_DISCOVERY_BACKEND": "", "NATS_SERVER": server.URL()}, backend.Options{}, ""},
		{"nats", map[string]string{"DYN_DISCOVERY_BACKEND": "nats", "NATS_SERVER": server.URL()}, backend.Options{}, ""},
		{"option with a server", map[string]string{"NATS_SERVER": "nats://127.0.0.1:1"}, backend.Options{Server: server.URL()}, ""},
		{"memory", map[string]string{"DYN_DISCOVERY_BACKEND": "mem", "NATS_SERVER": "nats://127.0.0.1:1"}, backend.Options{}, ""},
		{"option with a name", map[string]string{"DYN_DISCOVERY_BACKEND": "consul", "NATS_SERVER": "nats://127.0.0.1:1"}, backend.Options{Name: "mem"}, ""},
		{"option with unknown name", nil, backend.Options{Name: "consul"}, `"consul": want one of nats, mem, file, etcd, kubernetes`},
		{"unknown", map[string]string{"DYN_DISCOVERY_BACKEND": "consul"}, backend.Options{}, `DYN_DISCOVERY_BACKEND "consul": want one of nats, mem, file, etcd, kubernetes`},
		{"no server", map[string]string{"NATS_SERVER": "nats://127.0.0.1:1"}, backend.Options{}, "nats://127.0.0.1:1"},
		{"file", map[string]string{"DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": t.TempDir()}, backend.Options{}, ""},
		{"etcd user without password", map[string]string{"DYN_DISCOVERY_BACKEND": "etcd", "ETCD_AUTH_USERNAME": "me"}, backend.Options{}, "ETCD_AUTH_PASSWORD"},
		{"bad Kubernetes mode", map[string]string{"DYN_DISCOVERY_BACKEND": "kubernetes", "DYN_KUBE_DISCOVERY_MODE": "node"}, backend.Options{}, "DYN_KUBE_DISCOVERY_MODE"},
		{"bad server", map[string]string{"NATS_SERVER": "http://127.0.0.1"}, backend.Options{}, "NATS_SERVER"},
		{"bad settings", map[string]string{"NATS_SERVER": server.URL()}, backend.Options{Bucket: natskv.Options{Replicas: 2}}, "2 replicas"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			client, err := backend.Open(t.Context(), env(c.vars), c.options)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("error %v, want one that contains %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				for range 2 {
					if err := client.Shutdown(context.Background()); err != nil {
						t.Error(err)
					}
				}
			}()
			if _, err := client.List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint}); err != nil {
				t.Fatal(err)
			}
		})
	}
}
