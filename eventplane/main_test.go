package eventplane_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
)

// patience bounds what a test waits for; nothing takes nearly as long.
const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var backend = discovery.Scope{Namespace: "dynamo", Component: "backend"}

func patient(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	tb.Cleanup(cancel)
	return ctx
}

// startNATS returns the URL of a server that runs until the test ends.
func startNATS(tb testing.TB) string {
	tb.Helper()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		tb.Fatal(err)
	}
	srv.Start()
	tb.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(patience) {
		tb.Fatal("NATS server did not start")
	}
	return srv.ClientURL()
}

// newDiscovery is a client of its own on a shared registry.
func newDiscovery(tb testing.TB, m *discovery.Memory) *discovery.Client {
	tb.Helper()
	d := discovery.NewClient(m.Open(), discovery.Options{})
	tb.Cleanup(func() { must(tb, d.Shutdown(context.Background())) })
	return d
}

func newPlane(tb testing.TB, cfg eventplane.Config, d *discovery.Client) *eventplane.Client {
	tb.Helper()
	plane, err := eventplane.New(cfg, d)
	must(tb, err)
	tb.Cleanup(func() { must(tb, plane.Shutdown(patient(tb))) })
	return plane
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
