package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dynplane/dynplane/discovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFromEnv(t *testing.T) {
	t.Parallel()
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		env       string
		endpoints []string
		ttl       time.Duration
		err       string // part of it
	}{
		{"", nil, defaultTTL, ""},
		{"ETCD_ENDPOINTS=", nil, defaultTTL, ""},
		{"ETCD_ENDPOINTS=http://a:1, http://b:2", []string{"http://a:1", "http://b:2"}, defaultTTL, ""},
		{"ETCD_LEASE_TTL=3", nil, 3 * time.Second, ""},
		{"ETCD_LEASE_TTL=0", nil, defaultTTL, ""},
		{"ETCD_LEASE_TTL=-1", nil, defaultTTL, ""},
		{"ETCD_LEASE_TTL=ten", nil, defaultTTL, ""},
		{"ETCD_LEASE_TTL=99999999999999999999", nil, defaultTTL, ""},
		{"ETCD_AUTH_USERNAME=u;ETCD_AUTH_PASSWORD=p", nil, defaultTTL, ""},
		{"ETCD_AUTH_USERNAME=u", nil, 0, "ETCD_AUTH_PASSWORD: want both"},
		{"ETCD_AUTH_PASSWORD=p", nil, 0, "ETCD_AUTH_PASSWORD: want both"},
		{"ETCD_AUTH_CLIENT_CERT=" + junk, nil, 0, "ETCD_AUTH_CLIENT_KEY: want both"},
		{"ETCD_AUTH_CLIENT_KEY=" + junk, nil, 0, "ETCD_AUTH_CLIENT_KEY: want both"},
		{"ETCD_AUTH_CA=/does/not/exist", nil, 0, "ETCD_AUTH_CA: open /does/not/exist"},
		{"ETCD_AUTH_CA=" + junk, nil, 0, "want PEM"},
		{"ETCD_AUTH_CLIENT_CERT=" + junk + ";ETCD_AUTH_CLIENT_KEY=" + junk, nil, 0, "ETCD_AUTH_CLIENT_CERT " + junk},
	} {
		env := map[string]string{}
		for pair := range strings.SplitSeq(c.env, ";") {
			name, value, _ := strings.Cut(pair, "=")
			env[name] = value
		}
		o, err := FromEnv(func(name string) (string, bool) { value, ok := env[name]; return value, ok })
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", c.env, err, c.err)
			}
			continue
		}
		if err != nil || o.TTL != c.ttl || !slices.Equal(o.Endpoints, c.endpoints) ||
			o.Username != env["ETCD_AUTH_USERNAME"] || o.Password != env["ETCD_AUTH_PASSWORD"] || o.TLS != nil {
			t.Errorf("%s: %+v, %v", c.env, o, err)
		}
	}
}

func TestDialRefuses(t *testing.T) {
	t.Parallel()
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{TTL: 1500 * time.Millisecond}, "whole seconds"},
		{Options{TTL: -time.Second}, "whole seconds"},
		{Options{Username: "u"}, "want both"},
		{Options{Endpoints: []string{""}}, `endpoint ""`},
		{Options{Endpoints: []string{"ftp://h:1"}}, `endpoint "ftp://h:1"`},
		{Options{Endpoints: []string{"http://"}}, `endpoint "http://"`},
		{Options{Endpoints: []string{"http://h"}}, `endpoint "http://h"`},
		{Options{Endpoints: []string{"h:"}}, `endpoint "h:"`},
		{Options{Endpoints: []string{"a:1", "::1"}}, `endpoint "::1"`},
		{Options{Endpoints: []string{"http://a:1", "https://b:1"}}, "the same scheme"},
		{Options{Endpoints: []string{"http://a:1"}, TLS: tlsConfig}, "want https"},
		{Options{TLS: tlsConfig}, "want https"},
	} {
		if _, err := Dial(t.Context(), c.o); err == nil || !strings.HasPrefix(err.Error(), "etcd: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.o, err, c.want)
		}
	}
}

// The error of Dial names the variable with the wrong address.
func TestDialWithoutServer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := Dial(ctx, Options{Endpoints: []string{"http://127.0.0.1:1"}})
	if err == nil || !strings.HasPrefix(err.Error(), "etcd: connect to http://127.0.0.1:1 (ETCD_ENDPOINTS): ") {
		t.Errorf("got %v", err)
	}
}

func TestIsTransient(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		context.DeadlineExceeded:                  true,
		errLeaseLost:                              true,
		rpctypes.ErrNoLeader:                      true,
		rpctypes.ErrLeaderChanged:                 true,
		rpctypes.ErrTimeout:                       true,
		rpctypes.ErrTooManyRequests:               true,
		status.Error(codes.Unavailable, ""):       true,
		fmt.Errorf("x: %w", rpctypes.ErrNoLeader): true,
		context.Canceled:                          false,
		rpctypes.ErrPermissionDenied:              false,
		rpctypes.ErrAuthFailed:                    false,
		rpctypes.ErrNoSpace:                       false,
		rpctypes.ErrCompacted:                     false,
		errors.New("x"):                           false,
	} {
		if got := isTransient(err); got != want {
			t.Errorf("%v: transient %v, want %v", err, got, want)
		}
	}
}

// TestCausesOfRemovals covers the causes that are found without a request to the server.
func TestCausesOfRemovals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		lease    int64
		relisted bool
		answered time.Duration // ago
		want     discovery.Cause
	}{
		{"without a lease", 0, false, 0, discovery.CauseUnregistered},
		{"without a lease, after a fault", 0, true, time.Hour, discovery.CauseUnregistered},
		{"without a fault", 7, false, 0, discovery.CauseExpired},
		{"read late", 7, false, time.Hour, discovery.CauseUncertain},
		{"of an unknown lease", -1, false, 0, discovery.CauseUncertain},
		{"of an unknown lease, after a fault", -1, true, 0, discovery.CauseUncertain},
	} {
		w := &watcher{relisted: c.relisted, answered: time.Now().Add(-c.answered)}
		if got := w.cause(t.Context(), c.lease); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestKeysOfBothGenerationsAreOneEntry(t *testing.T) {
	t.Parallel()
	w := &watcher{query: discovery.Query{Kind: discovery.KindEventChannel}, bucket: "v1/event_channels/", answered: time.Now()}
	id := discovery.EventChannel{Scope: discovery.Scope{Namespace: "ns", Component: "c"}, Topic: "t"}.ID(42)
	older, newer := "v1/event_channels/ns/c/t/2a", "v1/event_channels/namespace/ns/component/c/topic/t/2a"
	event := func(typ mvccpb.Event_EventType, key string) *clientv3.Event {
		kv := &mvccpb.KeyValue{Key: []byte(key), Value: []byte("v"), Lease: 7}
		return &clientv3.Event{Type: typ, Kv: kv, PrevKv: kv}
	}
	resp := clientv3.WatchResponse{Events: []*clientv3.Event{
		event(clientv3.EventTypePut, older), event(clientv3.EventTypePut, newer), event(clientv3.EventTypePut, "v1/event_channels/x"),
		event(clientv3.EventTypeDelete, "v1/event_channels/x"), event(clientv3.EventTypeDelete, newer),
	}}
	if err := w.apply(t.Context(), &resp); err != nil {
		t.Fatal(err)
	}
	var ops []discovery.Op
	for _, ch := range w.queued {
		ops = append(ops, ch.Op)
		if ch.Op != discovery.OpInvalid && ch.ID != id || ch.Op == discovery.OpInvalid && ch.Err == nil {
			t.Errorf("change %+v", ch)
		}
	}
	if want := []discovery.Op{discovery.OpPut, discovery.OpPut, discovery.OpInvalid, discovery.OpDelete}; !slices.Equal(ops, want) {
		t.Errorf("%v, want %v", ops, want)
	}
}

// TestProgressWaitsForTheWatch: a ping may return a revision that the watch has not
// reached yet.
func TestProgressWaitsForTheWatch(t *testing.T) {
	t.Parallel()
	requested := time.Now()
	w := &watcher{reached: 5, awaited: 7, awaitedAt: requested}
	if w.reportProgress() || len(w.queued) > 0 {
		t.Fatal("progress before the watch has reached the revision")
	}
	w.reached = 7
	if !w.reportProgress() || len(w.queued) != 1 || w.queued[0].Op != discovery.OpProgress || !w.queued[0].AliveSince.Equal(requested) {
		t.Fatalf("%+v", w.queued)
	}
	if !w.reportProgress() || len(w.queued) != 1 {
		t.Fatal("the same progress twice")
	}
}

func TestWatchOfNothing(t *testing.T) {
	t.Parallel()
	s := &Store{closed: make(chan struct{})}
	w, err := s.Watch(t.Context(), discovery.Query{Scope: discovery.Scope{Namespace: "ns"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []discovery.Op{discovery.OpReset, discovery.OpSynced} {
		if ch, err := w.Next(t.Context()); err != nil || ch.Op != want {
			t.Fatalf("%+v, %v; want %v", ch, err, want)
		}
	}
	close(s.closed)
	if _, err := w.Next(t.Context()); !errors.Is(err, discovery.ErrClosed) {
		t.Fatalf("after shutdown: %v", err)
	}
	if _, err := s.Watch(t.Context(), discovery.Query{Kind: 77}); err == nil {
		t.Fatal("watch after shutdown, of an unknown kind")
	}
}
