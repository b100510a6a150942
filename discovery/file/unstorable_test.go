//go:build linux || darwin

package file_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/file"
)

// The error of a registration that has no key names the package once.
func TestUnstorable(t *testing.T) {
	t.Parallel()
	store, err := file.New(file.Options{Root: t.TempDir(), Wire: discovery.WireGen1})
	if err != nil {
		t.Fatal(err)
	}
	client := discovery.NewClient(store, discovery.Options{})
	t.Cleanup(func() {
		if err := client.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	for _, c := range []struct {
		spec discovery.Spec
		want string
	}{
		{discovery.EventChannel{
			Scope: discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "e"}, Topic: "t",
			Transport: discovery.ZMQ{Endpoint: "tcp://127.0.0.1:1"},
		}, "WireGen2 (DYN_EVENT_PLANE_WIRE)"},
		{discovery.Endpoint{
			Scope:     discovery.Scope{Namespace: "ns", Component: "a/b", Endpoint: "e"},
			Transport: discovery.TCP("127.0.0.1:1"),
		}, `name "a/b": want one without a slash`},
	} {
		_, err := client.Register(t.Context(), c.spec)
		if !errors.Is(err, discovery.ErrUnstorable) || !strings.Contains(err.Error(), c.want) || strings.Count(err.Error(), "discovery: ") != 1 {
			t.Errorf("%v, want ErrUnstorable, %q, and the package once", err, c.want)
		}
	}
}
