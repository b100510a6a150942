package natskv

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/waittest"
)

func endpointID(instance uint64) discovery.ID {
	return discovery.ID{
		Kind: discovery.KindEndpoint, Instance: instance,
		Scope: discovery.Scope{Namespace: "ns", Component: "comp", Endpoint: "ep"},
	}
}

func endpointValue(instance uint64, address string) []byte {
	value, _ := json.Marshal(discovery.Instance{
		InstanceID: instance,
		Spec:       discovery.Endpoint{Scope: endpointID(instance).Scope, Transport: discovery.TCP(address)},
	})
	return value
}

func openStore(tb testing.TB, nc *nats.Conn, o Options) *Store {
	tb.Helper()
	s, err := New(nc, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			tb.Errorf("shutdown: %v", err)
		}
	})
	return s
}

// registerOne registers instance 1. The TTL of s should be so long that the
// keep-alive sends no heartbeat during the test.
func registerOne(t *testing.T, s *Store) *lease {
	t.Helper()
	l, err := s.Register(t.Context(), endpointID(1), endpointValue(1, "a"), discovery.RegisterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return l.(*lease)
}

func present(t *testing.T, s *Store, l *lease) (owner string, there bool) {
	t.Helper()
	found, err := s.readEntry(t.Context(), l.key)
	if err != nil {
		t.Fatal(err)
	}
	return found.owner(), found.living()
}

// writeEntry writes the entry of a key as a client without a lease would.
func writeEntry(t *testing.T, s *Store, key, operation, value string) {
	t.Helper()
	m := nats.NewMsg(s.opt.entrySubject(key))
	m.Data = []byte(value)
	if operation != "" {
		m.Header.Set(hdrOperation, operation)
	}
	if _, err := s.js.PublishMsg(t.Context(), m); err != nil {
		t.Error(err)
	}
}
