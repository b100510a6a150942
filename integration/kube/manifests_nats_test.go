package kube

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/natsconn"
)

// TestManifestsNATS starts the deployed server with its configuration, but on
// ports and a directory of the test's own, and sends the requests of its probes.
func TestManifestsNATS(t *testing.T) {
	t.Parallel()
	m := render(t)
	set := of[*appsv1.StatefulSet](m)["nats"]
	container := set.Spec.Template.Spec.Containers[0]
	if want := "nats:" + natstest.Version + "-alpine"; container.Image != want {
		t.Errorf("image %s, want the version that is tested, %s", container.Image, want)
	}
	srv := natstest.Run(t, natstest.Config(natsOptions(t, m, set))).Server()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for _, probe := range []*corev1.Probe{container.StartupProbe, container.ReadinessProbe, container.LivenessProbe} {
		resp, err := (&http.Client{Transport: transport}).Get("http://" + srv.MonitorAddr().String() + probe.HTTPGet.Path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", probe.HTTPGet.Path, resp.Status)
		}
	}
}

// natsOptions reads the configuration of the server, which must fit the mounts
// and ports of its pod.
func natsOptions(t *testing.T, m manifests, set *appsv1.StatefulSet) *natstest.Options {
	t.Helper()
	container := set.Spec.Template.Spec.Containers[0]
	file := container.Command[len(container.Command)-1]
	mounts := map[string]string{}
	for _, mount := range container.VolumeMounts {
		mounts[mount.Name] = mount.MountPath
	}
	config := set.Spec.Template.Spec.Volumes[0]
	if filepath.Dir(file) != mounts[config.Name] {
		t.Errorf("%s is not in %s, where the configuration is", file, mounts[config.Name])
	}
	text := of[*corev1.ConfigMap](m)[config.ConfigMap.Name].Data[filepath.Base(file)]
	local := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(local, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	options := natstest.ReadConfig(t, local)
	data := set.Spec.VolumeClaimTemplates[0]
	if !strings.HasPrefix(options.StoreDir, mounts[data.Name]+"/") {
		t.Errorf("the store is in %s, want it in the volume at %s", options.StoreDir, mounts[data.Name])
	}
	if space := data.Spec.Resources.Requests.Storage().Value(); !options.JetStream || options.JetStreamMaxStore > space {
		t.Errorf("JetStream %t with %d bytes, want it within the %d of the volume", options.JetStream, options.JetStreamMaxStore, space)
	}
	for _, port := range container.Ports {
		if want := map[string]int{"nats": options.Port, "monitor": options.HTTPPort}[port.Name]; int(port.ContainerPort) != want {
			t.Errorf("port %s is %d, want the server's, %d", port.Name, port.ContainerPort, want)
		}
	}
	return options
}

// checkNATS requires NATS_SERVER to be the Service of the example.
func checkNATS(t *testing.T, m manifests, env environment) {
	t.Helper()
	config, err := natsconn.FromEnv(env.lookup)
	if err != nil {
		t.Fatal(err)
	}
	service := of[*corev1.Service](m)["nats"]
	if want := fmt.Sprintf("nats://%s:%d", service.Name, service.Spec.Ports[0].Port); config.URL != want {
		t.Errorf("NATS_SERVER is %s, want %s", config.URL, want)
	}
}
