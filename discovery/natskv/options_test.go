package natskv_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/natsconn"
)

func TestOptionsAreRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	nc := natstest.Run(t).Connect(t)
	for _, c := range []struct {
		name string
		opt  natskv.Options
		want string
	}{
		{"bucket", natskv.Options{Bucket: "a.b"}, `bucket "a.b": want only letters, digits, _ and -`},
		{"fraction of a second", natskv.Options{TTL: 1500 * time.Millisecond}, "TTL 1.5s: want whole seconds"},
		{"replicas", natskv.Options{Replicas: 2}, "2 replicas: want 1, 3 or 5"},
		{"short TTL with replicas", natskv.Options{Replicas: 3, TTL: 2 * time.Second}, "want at least 10s"},
		{"prefix and domain", natskv.Options{APIPrefix: "js.api", Domain: "hub"}, "want at most one"},
		{"domain of two tokens", natskv.Options{Domain: "a.b"}, "want one subject token"},
		{"prefix with a wildcard", natskv.Options{APIPrefix: "js.*"}, "want subject tokens without wildcards"},
		{"prefix that ends in a dot", natskv.Options{APIPrefix: "js."}, "no dot at the end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := natskv.New(nc, c.opt)
			if err == nil || !strings.HasPrefix(err.Error(), "natskv: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// tryAllRequests makes a store send each of its API requests: stream info and
// creation, a consumer, its pulls, its deletion, and the read of an entry.
func tryAllRequests(t *testing.T, nc *nats.Conn, o natskv.Options) {
	t.Helper()
	client := newClient(t, nc, o)
	first := register(t, client, 7, endpoint("ns"))
	w := newWatch(t, client, inNamespace("ns"))
	w.expect(discovery.Added, 7)
	w.expect(discovery.Synced, 0)
	// An Unregister after a take-over reads the entry and leaves it alone.
	register(t, newClient(t, nc, o), 7, endpoint("ns"))
	if err := first.Unregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	found, err := client.List(t.Context(), inNamespace("ns"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%d registrations, %v; want that of the second owner", len(found), err)
	}
}

func TestJetStreamDomain(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t, func(o *natstest.Options) { o.JetStreamDomain = "hub" })
	nc := server.Connect(t)
	tryAllRequests(t, nc, natskv.Options{Domain: "hub"})
	tryAllRequests(t, nc, natskv.Options{APIPrefix: "$JS.hub.API"})
}

func TestAPIPrefixOfAnImportedJetStream(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats.conf")
	const config = `
jetstream: enabled
accounts {
  HUB {
    jetstream: enabled
    users: [{user: hub, password: hub}]
    exports: [{service: "$JS.API.>", response: stream}, {service: "dynplane.>"}]
  }
  LEAF {
    users: [{user: leaf, password: leaf}]
    imports: [
      {service: {account: HUB, subject: "$JS.API.>"}, to: "from_hub.API.>"}
      {service: {account: HUB, subject: "dynplane.>"}}
    ]
  }
}
`
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	server := natstest.Run(t, natstest.Config(natstest.ReadConfig(t, file)))
	nc, err := natsconn.Connect(t.Context(), natsconn.Config{URL: server.URL(), Username: "leaf", Password: "leaf"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	tryAllRequests(t, nc, natskv.Options{APIPrefix: "from_hub.API"})
}

func TestDialOwnsItsConnection(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	store, err := natskv.Dial(t.Context(), natsconn.Config{URL: server.URL()}, natskv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n := server.Server().NumClients(); n != 1 {
		t.Fatalf("%d connections, want 1", n)
	}
	for range 2 { // Shutdown is idempotent
		if err := store.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	waittest.Eventually(t, "the connection is closed", func() bool { return server.Server().NumClients() == 0 })
	if _, err := natskv.Dial(t.Context(), natsconn.Config{URL: server.URL()}, natskv.Options{Replicas: 2}); err == nil {
		t.Fatal("invalid options are accepted")
	}
	waittest.Eventually(t, "no connection is left after a refusal", func() bool { return server.Server().NumClients() == 0 })
}

func TestConcurrentShutdownsRemoveEverything(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	store, err := natskv.Dial(t.Context(), natsconn.Config{URL: server.URL()}, natskv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	client := discovery.NewClient(store, discovery.Options{})
	for id := range uint64(100) {
		register(t, client, id, endpoint("ns"))
	}
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() { errs <- client.Shutdown(t.Context()) }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	left, err := newClient(t, server.Connect(t), natskv.Options{}).List(t.Context(), inNamespace("ns"))
	if err != nil || len(left) != 0 {
		t.Errorf("%d registrations are left, %v", len(left), err)
	}
}
