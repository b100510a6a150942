package natsversions

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
)

// documentedCopy returns the configuration of a copy of the bucket that
// docs/sites.md shows.
func documentedCopy(t *testing.T) (config jetstream.StreamConfig) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "sites.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```json\n")
	block, _, _ := strings.Cut(rest, "```")
	if err := json.Unmarshal([]byte(block), &config); err != nil {
		t.Fatalf("docs/sites.md: %v", err)
	}
	return config
}

func TestReadersInAnotherSite(t *testing.T) {
	t.Parallel()
	onSupported(t, func(t *testing.T, version string) {
		port := strconv.Itoa(natstest.FreePort(t))
		hub := runWith(t, version, "hub", fmt.Sprintf("server_name: hub\nleafnodes { listen: \"127.0.0.1:%s\" }", port))
		leaf := runWith(t, version, "leaf", fmt.Sprintf("server_name: leaf\nleafnodes { reconnect: 1, remotes: [{ url: \"nats://127.0.0.1:%s\" }] }", port))
		o := natskv.Options{TTL: ttl}
		owner, dying := newClient(t, hub.url(), o), newClient(t, hub.url(), o)
		here := newClient(t, leaf.url(), natskv.Options{TTL: ttl, Domain: "leaf"})
		w := startWatch(t, here) // before there is a copy

		owner.register(t, "generate", 1)
		js, err := jetstream.NewWithDomain(here.nc, "leaf")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.CreateStream(t.Context(), documentedCopy(t)); err != nil {
			t.Fatal(err)
		}
		w.awaitAdded("generate", 1)
		dying.register(t, "generate", 2)
		leaves, err := owner.RegisterAs(t.Context(), 3, endpoint("generate"))
		if err != nil {
			t.Fatal(err)
		}
		w.awaitAdded("generate", 2, 3)
		if err := leaves.Unregister(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.awaitRemoved("generate", 3)
		dying.nc.Close()
		w.awaitRemoved("generate", 2)
		here.awaitListed(t, 1)

		_, err = here.Register(t.Context(), endpoint("generate"))
		if want := "is a copy of another site"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("register in the copy: %v, want an error that contains %q", err, want)
		}

		// The copy stays readable without the hub, and follows it afterwards.
		hub.kill()
		here.awaitListed(t, 1)
		outage(3 * ttl)
		hub.start()
		owner.register(t, "generate", 4)
		w.awaitAdded("generate", 4)
		here.awaitListed(t, 2)
		w.expect("generate", 0, 1, 4)
		w.expect("generate", 1, 2, 3)

		// Owners at the leaf register through the link.
		there := newClient(t, leaf.url(), natskv.Options{TTL: ttl, Domain: "hub"})
		there.register(t, "generate", 5)
		w.awaitAdded("generate", 5)
		here.awaitListed(t, 3)
	})
}
