package integration

import (
	"bufio"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/natsconn"
)

// documentedPermissions reads the subjects of owners and readers, of each operation,
// from docs/protocol.md.
func documentedPermissions(t *testing.T) map[string][]string {
	t.Helper()
	file, err := os.Open("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	subjects := map[string][]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) == 3 && (words[0] == "owner" || words[0] == "reader") {
			key := words[0] + " " + words[1]
			subjects[key] = append(subjects[key], words[2])
		}
	}
	return subjects
}

// TestDocumentedPermissionsSuffice runs an owner and a reader with the permissions of
// docs/protocol.md, through a whole lifecycle and a deleted write stream, and requires
// that the server refuses them nothing.
func TestDocumentedPermissionsSuffice(t *testing.T) {
	t.Parallel()
	allowed := documentedPermissions(t)
	all := []string{">"}
	server := natstest.Run(t, natstest.Allowed("admin", "x", all, all),
		natstest.Allowed("owner", "x", allowed["owner publish"], allowed["owner subscribe"]),
		natstest.Allowed("reader", "x", allowed["reader publish"], allowed["reader subscribe"]))
	log := &logtest.Buffer{}
	var conn *nats.Conn
	open := func(user string) *discovery.Client {
		t.Helper()
		config := natsconn.Config{URL: server.URL(), Username: user, Password: "x", Logger: log.Logger()}
		var err error
		if conn, err = natsconn.Connect(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		store, err := natskv.New(conn, natskv.Options{TTL: 2 * time.Second, Logger: log.Logger()})
		if err != nil {
			t.Fatal(err)
		}
		c := discovery.NewClient(store, discovery.Options{Logger: log.Logger()})
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
			defer cancel()
			if err := c.Shutdown(ctx); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
				t.Error(err)
			}
		})
		return c
	}
	reader, owner, dying := open("reader"), open("owner"), open("owner")
	die := conn.Close
	w := startWatch(t, reader, endpoints) // before there is a bucket
	reg := register(t, owner, 1, endpoint("generate"))
	w.awaitAdded(1)
	if err := reg.Update(t.Context(), discovery.Endpoint{Scope: endpoint("generate").Scope, Transport: discovery.TCP("127.0.0.1:1/1/x")}); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Get(t.Context(), reg.Instance().ID()); err != nil {
		t.Error(err)
	}
	register(t, dying, 2, endpoint("generate"))
	w.awaitAdded(2)
	die()
	admin, err := natsconn.Connect(t.Context(), natsconn.Config{URL: server.URL(), Username: "admin", Password: "x"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	js, err := jetstream.New(admin)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "DYNPLANE_dynplane"); err != nil {
		t.Fatal(err)
	}
	w.awaitRemoved(2) // after the hold, and a look into the write stream
	waittest.Eventually(t, "the owner has written its entry again", func() bool {
		got, err := reader.List(t.Context(), endpoints)
		return err == nil && len(got) == 1
	})
	if err := reg.Unregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.awaitRemoved(1)
	if text := log.String(); strings.Contains(strings.ToLower(text), "permission") {
		t.Errorf("the server has refused something:\n%s", text)
	}
}
