package kube

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

var generate = discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}

// dynamo is a namespace in which the real runtime and ours meet: the environment
// of both.
type dynamo struct {
	place
	version string // of the runtime
	env     map[string]string
	brokers []string // pods that are ready beside those of the test
}

// newDynamo prepares the transport. program is zmq-broker. Where the defaults of
// the transport and the codec on Kubernetes are right, they are used.
func newDynamo(p place, version, transport, program string) dynamo {
	p.Helper()
	d := dynamo{place: p, version: version, env: map[string]string{
		"DYN_DISCOVERY_BACKEND": "kubernetes", "KUBECONFIG": p.kubeconfig(), "POD_NAMESPACE": p.namespace,
		"DYN_EVENT_PLANE_HOST": "127.0.0.1",
	}}
	if version == dynamotest.Gen1 {
		d.env["DYN_EVENT_PLANE_WIRE"] = "gen1"
	}
	switch transport {
	case "broker by URL":
		d.env["DYN_ZMQ_BROKER_URL"] = dynamotest.RunBroker(p.T, program, nil).Line
	case "two brokers":
		aSub, aPub, _ := strings.Cut(dynamotest.RunBroker(p.T, program, nil).Line, ",xpub=")
		bSub, bPub, _ := strings.Cut(dynamotest.RunBroker(p.T, program, nil).Line, ",xpub=")
		d.env["DYN_ZMQ_BROKER_URL"] = aSub + ";" + strings.TrimPrefix(bSub, "xsub=") + ",xpub=" + aPub + ";" + bPub
	case "broker by discovery":
		d.brokers = []string{"broker=9"}
		dynamotest.RunBroker(p.T, program, d.podEnv("broker", "9"))
		d.env["DYN_ZMQ_BROKER_ENABLED"] = "true"
	case "NATS":
		d.env["DYN_EVENT_PLANE"], d.env["NATS_SERVER"] = "nats", natstest.Run(p.T).URL()
	}
	return d
}

// kubeconfig writes a file for clients of the cluster.
func (p place) kubeconfig() string {
	p.Helper()
	file := filepath.Join(p.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, fmt.Appendf(nil, `{apiVersion: v1, kind: Config, current-context: test,
		clusters: [{name: test, cluster: {server: "http://%s"}}], contexts: [{name: test, context: {cluster: test, user: test}}],
		users: [{name: test, user: {}}]}`, p.address), 0o600); err != nil {
		p.Fatal(err)
	}
	return file
}

// podEnv returns the environment of a pod.
func (d dynamo) podEnv(pod, uid string) map[string]string {
	env := maps.Clone(d.env)
	env["POD_NAME"], env["POD_UID"] = pod, uid
	return env
}

// setReady makes these pods the ready ones, besides those of brokers.
func (d dynamo) setReady(pods ...string) {
	d.Helper()
	d.ready(append(pods, d.brokers...)...)
}

// scope returns where the runtime publishes.
func (d dynamo) scope() discovery.Scope {
	if d.version == dynamotest.Gen1 {
		return discovery.Scope{Namespace: generate.Namespace, Component: generate.Component}
	}
	return generate
}

func (d dynamo) hasBrokers() bool {
	return d.env["DYN_ZMQ_BROKER_URL"] != "" || d.env["DYN_ZMQ_BROKER_ENABLED"] != ""
}

// start starts a peer as a pod of the cluster.
func (d dynamo) start(t *testing.T, program, pod, uid string) *dynamotest.Peer {
	t.Helper()
	return dynamotest.Start(t, d.version, program, d.podEnv(pod, uid))
}

// openOurs opens our side as a pod.
func (d dynamo) openOurs(t *testing.T, pod, uid string) (*discovery.Client, *eventplane.Client) {
	t.Helper()
	env := d.podEnv(pod, uid)
	lookup := func(name string) (string, bool) { value, ok := env[name]; return value, ok }
	store, err := backend.Open(t.Context(), lookup, backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shutdown(t, store) })
	cfg, err := eventplane.ConfigFromEnv(lookup)
	if err != nil {
		t.Fatal(err)
	}
	plane, err := eventplane.New(cfg, store)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shutdown(t, plane) })
	return store, plane
}

func shutdown(t *testing.T, s interface{ Shutdown(context.Context) error }) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}
