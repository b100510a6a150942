package eventplane_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.IgnoreServer()) }

var backend = discovery.Scope{Namespace: "dynamo", Component: "backend"}

func patient(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
	tb.Cleanup(cancel)
	return ctx
}

// newDiscovery is a client of its own on a shared registry.
func newDiscovery(tb testing.TB, m *memory.Registry) *discovery.Client {
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
