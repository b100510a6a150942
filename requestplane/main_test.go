package requestplane

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/internal/waittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const path = "2a/dynamo/backend/generate"

// newServer starts a server on a loopback address.
func newServer(t *testing.T, options ServerOptions) *Server {
	t.Helper()
	if options.Listen == "" {
		options.Listen = "127.0.0.1:0"
	}
	s, err := NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// newClient opens a client on a loopback address.
func newClient(t *testing.T, options ClientOptions) *Client {
	t.Helper()
	if options.Listen == "" {
		options.Listen = "127.0.0.1:0"
	}
	if options.AckTimeout == 0 {
		options.AckTimeout = waittest.Patience
	}
	c, err := NewClient(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// serve serves a handler and returns its address.
func serve(t *testing.T, s *Server, h Handler) Address {
	t.Helper()
	if _, err := s.Handle(path, h); err != nil {
		t.Fatal(err)
	}
	return s.Address(path)
}

// echo answers with the request, once.
func echo(_ context.Context, r *Request, send func([]byte) error) error { return send(r.Payload) }

// collect makes a call and returns all of its items.
func collect(ctx context.Context, c *Client, to Address, request string, options CallOptions) (items []string, err error) {
	if options.Idle == 0 {
		options.Idle = waittest.Patience
	}
	for item, err := range c.Call(ctx, to, []byte(request), options) {
		if err != nil {
			return items, err
		}
		items = append(items, string(item))
	}
	return items, nil
}

// expectEcho makes a call that must succeed.
func expectEcho(t *testing.T, c *Client, to Address) {
	t.Helper()
	items, err := collect(t.Context(), c, to, `"hello"`, CallOptions{})
	if err != nil || strings.Join(items, ",") != `"hello"` {
		t.Fatalf("items %q, error %v, want an echo", items, err)
	}
}

func expectError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	waittest.Eventually(t, what, ok)
}

func mustAddress(t *testing.T, host string) Address {
	t.Helper()
	return Address{netip.MustParseAddrPort(host), path}
}

const moment = 50 * time.Millisecond
