package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
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
	const never = 24 * time.Hour
	for _, c := range []struct {
		name                     string
		lease                    int64
		answered, relisted, slow time.Duration // ago
		want                     discovery.Cause
	}{
		{"without a lease", 0, 0, never, never, discovery.CauseUnregistered},
		{"without a lease, after a fault", 0, time.Hour, 0, 0, discovery.CauseUnregistered},
		{"without a fault", 7, 0, never, never, discovery.CauseExpired},
		{"long after a fault", 7, 0, time.Minute, time.Minute, discovery.CauseExpired},
		{"soon after a fault", 7, 0, time.Second, never, 0},
		{"of a slow store", 7, 0, never, time.Second, 0},
		{"read late", 7, time.Hour, never, never, discovery.CauseUncertain},
		{"of an unknown lease", -1, 0, never, never, discovery.CauseUncertain},
		{"of an unknown lease, after a fault", -1, 0, 0, never, discovery.CauseUncertain},
	} {
		now := time.Now()
		w := &watcher{faults: faults{answered: now.Add(-c.answered), relisted: now.Add(-c.relisted), slow: now.Add(-c.slow)}}
		if got := w.cause(c.lease); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestKeysOfBothGenerationsAreOneEntry(t *testing.T) {
	t.Parallel()
	w := &watcher{
		store:   newStore(Options{}),
		query:   discovery.Query{Kind: discovery.KindEventChannel},
		buckets: []bucket{{discovery.KindEventChannel, "v1/event_channels/"}},
		faults:  faults{answered: time.Now()},
	}
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
	w := &watcher{store: newStore(Options{})}
	w.reached, w.progressed = 5, time.Now()
	sent := time.Now()
	pong := pong{sent: sent, revision: 7}
	if err := w.observePong(pong); err != nil || len(w.queued) > 0 {
		t.Fatalf("%v, %+v: progress before the watch has reached the revision", err, w.queued)
	}
	pong.sent = sent.Add(time.Second) // which is not the one that is awaited
	if err := w.observePong(pong); err != nil || len(w.queued) > 0 {
		t.Fatalf("%v, %+v: progress before the watch has reached the revision", err, w.queued)
	}
	w.reached = 7
	w.reportProgress()
	if len(w.queued) != 1 || w.queued[0].Op != discovery.OpProgress || !w.queued[0].AliveSince.Equal(sent) {
		t.Fatalf("%+v", w.queued)
	}
	if w.reportProgress(); len(w.queued) != 1 {
		t.Fatal("the same progress twice")
	}
}

// TestSlowPingsDoNotStartOver: a watch lists again after a connection has ended, or
// when the store has lost its data, but not while the store is slow.
func TestSlowPingsDoNotStartOver(t *testing.T) {
	t.Parallel()
	long := time.Now().Add(-time.Hour)
	for _, c := range []struct {
		name       string
		pong       pong
		progressed time.Time
		ended      int64
		again      bool
	}{
		{"in time", pong{sent: time.Now(), revision: 9}, time.Now(), 0, false},
		{"slow", pong{sent: long, took: time.Hour, revision: 9}, time.Now(), 0, false},
		{"without an answer", pong{sent: long, err: context.DeadlineExceeded}, time.Now(), 0, false},
		{"during an election", pong{sent: long, err: rpctypes.ErrNoLeader}, time.Now(), 0, false},
		{"refused", pong{sent: long, err: rpctypes.ErrPermissionDenied}, time.Now(), 0, true},
		{"of another server", pong{sent: time.Now(), revision: 9}, time.Now(), 1, true},
		{"after a loss of data", pong{sent: time.Now(), revision: 6}, time.Now(), 0, true},
		{"of a watch that is stuck", pong{sent: time.Now(), revision: 9}, long, 0, true},
	} {
		w := &watcher{store: newStore(Options{Logger: slog.New(slog.DiscardHandler)})}
		w.pinger = newPinger()
		w.latest, w.reached, w.awaited, w.awaitedAt, w.progressed = 7, 7, 8, long, c.progressed
		w.store.connections.ended.Store(c.ended)
		if err := w.observePong(c.pong); (err != nil) != c.again {
			t.Errorf("%s: %v, want an error: %v", c.name, err, c.again)
		}
	}
}

func TestWatchOfNothing(t *testing.T) {
	t.Parallel()
	s := newStore(Options{})
	w, err := s.Watch(t.Context(), discovery.Query{Scope: discovery.Scope{Namespace: "ns"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []discovery.Op{discovery.OpReset, discovery.OpSynced} {
		if ch, err := w.Next(t.Context()); err != nil || ch.Op != want {
			t.Fatalf("%+v, %v; want %v", ch, err, want)
		}
	}
	s.endLife()
	if _, err := w.Next(t.Context()); !errors.Is(err, discovery.ErrClosed) {
		t.Fatalf("after shutdown: %v", err)
	}
	if _, err := s.Watch(t.Context(), discovery.Query{Kind: 77}); err == nil {
		t.Fatal("watch after shutdown, of an unknown kind")
	}
}

// TestRangeOfKinds: several kinds are one range of keys, in which other keys are
// skipped.
func TestRangeOfKinds(t *testing.T) {
	t.Parallel()
	scope := discovery.Scope{Namespace: "ns"}
	for _, c := range []struct {
		q        discovery.Query
		from, to string
	}{
		{discovery.Query{Kind: discovery.KindEndpoint, Scope: scope}, "v1/instances/ns/", "v1/instances/ns0"},
		{discovery.Query{Kind: discovery.KindEventChannel, Scope: scope}, "v1/event_channels/", "v1/event_channels0"},
		{discovery.Query{Kind: discovery.KindAny, Scope: scope}, "v1/event_channels/", "v1/mdc0"},
		{discovery.Query{Kind: discovery.KindAny, Topic: "t"}, "v1/event_channels/", "v1/event_sources0"},
	} {
		watch, err := newStore(Options{}).Watch(t.Context(), c.q)
		if err != nil {
			t.Fatal(err)
		}
		w := watch.(*watcher)
		if w.from != c.from || w.to != c.to {
			t.Errorf("%+v: from %s to %s, want %s to %s", c.q, w.from, w.to, c.from, c.to)
		}
		if c.q.Kind == discovery.KindAny && c.q.Topic == "" {
			for _, key := range []string{"v1/other/x", "v1/instances/ns/c/e/1", "v1/mdc/other/c/e/1", "v1/mdc/x"} {
				w.put(&mvccpb.KeyValue{Key: []byte(key)})
			}
			if len(w.queued) != 2 || w.queued[0].Op != discovery.OpPut || w.queued[1].Op != discovery.OpInvalid {
				t.Errorf("%+v, want an endpoint and an invalid model", w.queued)
			}
		}
	}
}
