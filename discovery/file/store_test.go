//go:build linux || darwin

package file_test

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/discoverytest"
	"github.com/dynplane/dynplane/discovery/file"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	discoverytest.Run(t, func(t *testing.T) func() discovery.Store {
		t.Helper()
		root := t.TempDir()
		return func() discovery.Store { return open(t, root, 0, nil) }
	})
}

func open(t *testing.T, root string, ttl time.Duration, log *slog.Logger) *file.Store {
	t.Helper()
	store, err := file.New(file.Options{Root: root, TTL: ttl, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// client opens a client with a store and a log of its own.
func client(t *testing.T, root string, ttl time.Duration) (*discovery.Client, *logtest.Buffer) {
	t.Helper()
	log := &logtest.Buffer{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	c := discovery.NewClient(open(t, root, ttl, logger), discovery.Options{Logger: logger})
	t.Cleanup(func() {
		if err := c.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return c, log
}

// stream pulls the events of a watch.
type stream struct {
	t    *testing.T
	next func() (discovery.Event, error, bool)
}

func watch(t *testing.T, c *discovery.Client, kind discovery.Kind) *stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	next, stop := iter.Pull2(c.Watch(ctx, discovery.Query{Kind: kind}))
	t.Cleanup(func() { stop(); cancel() })
	return &stream{t, next}
}

func (s *stream) expect(want discovery.EventType, instance uint64) discovery.Instance {
	s.t.Helper()
	ev, err, ok := s.next()
	if err != nil || !ok {
		s.t.Fatalf("the watch ended (%v), want %v %x", err, want, instance)
	}
	if ev.Type != want || ev.Instance.InstanceID != instance {
		s.t.Fatalf("got %v %x, want %v %x", ev.Type, ev.Instance.InstanceID, want, instance)
	}
	return ev.Instance
}

// expectAll receives n events of one type, each of another instance.
func (s *stream) expectAll(want discovery.EventType, n int) {
	s.t.Helper()
	ids := map[uint64]struct{}{}
	for len(ids) < n {
		ev, err, ok := s.next()
		if _, twice := ids[ev.Instance.InstanceID]; err != nil || !ok || twice || ev.Type != want {
			s.t.Fatalf("got %v %x (%v) after %d, want %d %v", ev.Type, ev.Instance.InstanceID, err, len(ids), n, want)
		}
		ids[ev.Instance.InstanceID] = struct{}{}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

const (
	endpointsDir = "v1/instances"
	channelsDir  = "v1/event_channels"
)

// endpointPath is the file of endpoint() under an id, as Dynamo names it.
func endpointPath(root string, instance uint64) string {
	return filepath.Join(root, endpointsDir, fmt.Sprintf("ns%%2Fcomp%%2Fep%%2F%x", instance))
}

func endpointJSON(instance uint64, device string) string {
	return fmt.Sprintf(`{"type":"Endpoint","component":"comp","endpoint":"ep","namespace":"ns","instance_id":%d,"transport":{"tcp":"127.0.0.1:1/2a/ep"},"device_type":%q}`,
		instance, device)
}

func TestInvalidOptionsAreRefused(t *testing.T) {
	t.Parallel()
	for _, o := range []file.Options{{}, {Root: "x", TTL: 999 * time.Millisecond}, {Root: "x", TTL: -1}} {
		if _, err := file.New(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

func TestFromEnv(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{nil, "/tmp/dynamo_store_kv"},
		{map[string]string{"TMPDIR": "/var/tmp"}, "/var/tmp/dynamo_store_kv"},
		{map[string]string{"TMPDIR": "/var/tmp", "DYN_FILE_KV": "/data/kv"}, "/data/kv"},
		{map[string]string{"TMPDIR": "", "DYN_FILE_KV": ""}, "/tmp/dynamo_store_kv"},
	} {
		got, err := file.FromEnv(func(name string) (string, bool) { v, ok := c.env[name]; return v, ok })
		if err != nil || got.Root != c.want {
			t.Errorf("%v: %+v, %v, want the root %s", c.env, got, err, c.want)
		}
	}
}

// TestFileNamesAreThoseOfDynamo compares file names with those of Dynamo.
func TestFileNamesAreThoseOfDynamo(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	c, _ := client(t, root, 0)
	zmq := discovery.ZMQ{Endpoint: "tcp://127.0.0.1:1"}
	model, err := discovery.NewModel(discovery.Scope{Namespace: "ns", Component: "comp", Endpoint: "ep"}, map[string]any{"display_name": "m"}, "my_lora-1.0")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		spec discovery.Spec
		id   uint64
		want string
	}{
		{endpoint(), 0x1c9a5dad7b0253, "v1/instances/ns%2Fcomp%2Fep%2F1c9a5dad7b0253"},
		{model, 42, "v1/mdc/ns%2Fcomp%2Fep%2F2a%2Fmy%5Flora%2D1%2E0"},
		{discovery.EventChannel{Scope: discovery.Scope{Namespace: "dynamo"}, Topic: "t", Transport: zmq}, 42,
			"v1/event_channels/namespace%2Fdynamo%2Ftopic%2Ft%2F2a"},
		{discovery.EventChannel{Scope: discovery.Scope{Namespace: "ns.one", Component: "b"}, Topic: "kv-events", Transport: zmq}, 1,
			"v1/event_channels/namespace%2Fns%252Eone%2Fcomponent%2Fb%2Ftopic%2Fkv%2Devents%2F1"},
		{discovery.EventSource{Scope: discovery.Scope{Namespace: "a", Component: "b", Endpoint: "ü"}, Topic: "t", Metadata: []byte(`{}`)}, 1<<64 - 1,
			"v1/event_sources/namespace%2Fa%2Fcomponent%2Fb%2Fendpoint%2F%25C3%25BC%2Ftopic%2Ft%2Fffffffffffffffff"},
	} {
		reg, err := c.RegisterAs(t.Context(), tt.id, tt.spec)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(root, tt.want)
		if data, err := os.ReadFile(path); err != nil || len(data) == 0 {
			t.Errorf("%s: %v", tt.want, err)
		}
		if entries, _ := os.ReadDir(filepath.Dir(path)); !exists(path) || len(entries) > 2 {
			t.Errorf("%s: %v", filepath.Dir(path), entries)
		}
		list, err := c.List(t.Context(), discovery.Query{Kind: reg.Instance().ID().Kind, Scope: reg.Instance().ID().Scope})
		if err != nil || len(list) != 1 || list[0].ID() != reg.Instance().ID() {
			t.Errorf("%s is listed as %v, %v", tt.want, list, err)
		}
	}
}

func TestRegisterRefuses(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	store := open(t, root, 0, nil)
	defer func() { _ = store.Shutdown(t.Context()) }()
	slash, long := endpoint(), endpoint()
	slash.Scope.Namespace = "a/b"
	long.Scope.Namespace = strings.Repeat("n", 250)
	for _, spec := range []discovery.Spec{slash, long} {
		if _, err := store.Register(t.Context(), spec.ID(1), []byte("{}"), discovery.RegisterOptions{}); err == nil {
			t.Errorf("%v is accepted", spec.ID(1))
		}
	}
	if _, err := store.Register(t.Context(), endpoint().ID(1), make([]byte, 17<<20), discovery.RegisterOptions{}); err == nil {
		t.Error("a value of 17 MiB is accepted")
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) > 0 {
		t.Errorf("a refused registration left %v, %v", entries, err)
	}
}
