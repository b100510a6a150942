package kube

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	stdslices "slices" // slices are EndpointSlices here
	"syscall"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/kube"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestDynamo has a worker and a subscriber of the real runtime meet ours on
// Kubernetes. `make interop` runs it; package integration/dynamo has such tests
// for the other stores.
func TestDynamo(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	for _, version := range []string{dynamotest.Gen2, dynamotest.Gen1} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			d := dynamo{c.in(t), version}
			t.Run("theirs", func(t *testing.T) { d.receive(t) })
			t.Run("ours", func(t *testing.T) { d.publish(t) })
		})
	}
}

var generate = discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}

// dynamo is a place with a version of the runtime.
type dynamo struct {
	place
	version string
}

// scope returns where the runtime publishes.
func (d dynamo) scope() discovery.Scope {
	if d.version == dynamotest.Gen1 {
		return discovery.Scope{Namespace: generate.Namespace, Component: generate.Component}
	}
	return generate
}

// start starts a peer as a pod of the cluster.
func (d dynamo) start(t *testing.T, program, pod, uid string) *dynamotest.Peer {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, fmt.Appendf(nil, `{apiVersion: v1, kind: Config, current-context: test,
		clusters: [{name: test, cluster: {server: "http://%s"}}], contexts: [{name: test, context: {cluster: test, user: test}}],
		users: [{name: test, user: {}}]}`, d.address), 0o600); err != nil {
		t.Fatal(err)
	}
	return dynamotest.Start(t, d.version, program, map[string]string{
		"DYN_DISCOVERY_BACKEND": "kubernetes", "KUBECONFIG": kubeconfig,
		"POD_NAME": pod, "POD_UID": uid, "POD_NAMESPACE": d.namespace,
		"DYN_EVENT_PLANE": "zmq", "DYN_EVENT_PLANE_HOST": "127.0.0.1",
	})
}

// openOurs opens our side as a pod.
func (d dynamo) openOurs(t *testing.T, pod, uid string) (*discovery.Client, *eventplane.Client) {
	t.Helper()
	d.T = t
	store := d.open(kube.Options{PodName: pod, PodUID: uid})
	cfg := eventplane.Config{Transport: discovery.TransportZMQ, Host: "127.0.0.1"}
	if d.version == dynamotest.Gen1 {
		cfg.Wire = eventplane.WireGen1
	}
	plane, err := eventplane.New(cfg, store)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Shutdown(context.Background()); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return store, plane
}

// receive has a worker publish, and then end.
func (d dynamo) receive(t *testing.T) {
	d.T = t
	d.ready("worker=1", "reader=2")
	store, plane := d.openOurs(t, "reader", "2")
	worker := d.start(t, "worker.py", "worker", "1")
	id := worker.Await("ready", 1).WorkerID
	query := discovery.Query{Kind: discovery.KindEventChannel, Scope: d.scope(), Topic: "kv-events"}
	var channels []discovery.Instance
	waittest.Eventually(t, "the worker is registered", func() bool {
		var err error
		if channels, err = store.List(t.Context(), query); err != nil {
			t.Fatal(err)
		}
		return len(channels) == 1 && stdslices.ContainsFunc(d.list(t, store), func(in discovery.Instance) bool { return in.InstanceID == id })
	})
	sub, err := plane.Subscriber(t.Context(), d.scope(), "kv-events")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	if err := sub.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	const events = 20
	worker.Send(map[string]any{"publish": events})
	for i := range events {
		ev, err := sub.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if ev.PublisherID != channels[0].InstanceID || ev.Missed != 0 || i > 0 && ev.Sequence == 0 {
			t.Fatalf("event %d: %+v, registered %d", i, ev, channels[0].InstanceID)
		}
		if ev.Sequence == events-1 {
			break // the first may have been published before the subscription was in effect
		}
	}
	worker.Signal(syscall.SIGTERM)
	if d.version == dynamotest.Gen1 {
		d.ready("reader=2") // it leaves its endpoint to the end of its pod
	}
	waittest.Eventually(t, "the worker is removed", func() bool { return len(d.list(t, store)) == 0 })
}

func (d dynamo) list(t *testing.T, store *discovery.Client) []discovery.Instance {
	t.Helper()
	endpoints, err := store.List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint, Scope: generate})
	if err != nil {
		t.Fatal(err)
	}
	return endpoints
}

// publish has a real subscriber receive ours.
func (d dynamo) publish(t *testing.T) {
	d.T = t
	d.ready("publisher=3", "subscriber=4")
	store, plane := d.openOurs(t, "publisher", "3")
	reg, err := store.Register(t.Context(), discovery.Endpoint{Scope: generate, Transport: discovery.TCP("127.0.0.1:9/1/generate")})
	if err != nil {
		t.Fatal(err)
	}
	pub, err := plane.Publisher(t.Context(), d.scope(), "forward-pass-metrics")
	if err != nil {
		t.Fatal(err)
	}
	subscriber := d.start(t, "subscriber.py", "subscriber", "4")
	waittest.Eventually(t, "the runtime finds our endpoint", func() bool {
		return stdslices.Contains(subscriber.Ask(map[string]any{}, "instances").Instances, reg.Instance.InstanceID)
	})
	send := func(payload string) {
		t.Helper()
		if err := pub.PublishBytes(t.Context(), []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	waittest.Eventually(t, "the subscriber receives", func() bool {
		send("probe")
		return len(subscriber.Lines("event")) > 0
	})
	const events = 20
	var want []string
	for i := range events {
		payload := fmt.Sprint("event ", i)
		send(payload)
		want = append(want, hex.EncodeToString([]byte(payload)))
	}
	var got []string
	waittest.Eventually(t, "the subscriber receives all events", func() bool {
		got = nil
		for _, line := range subscriber.Lines("event") {
			if line.Payload != hex.EncodeToString([]byte("probe")) {
				got = append(got, line.Payload)
			}
		}
		return len(got) >= events
	})
	if !stdslices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
}
