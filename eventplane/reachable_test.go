package eventplane_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/eventplane"
)

func TestReachableEndpoint(t *testing.T) {
	t.Parallel()
	for bound, c := range map[string]struct{ env, want string }{
		"tcp://127.0.0.1:5555":   {" ", "tcp://127.0.0.1:5555"},
		"tcp://10.0.0.9:5555":    {"192.0.2.7", "tcp://192.0.2.7:5555"},
		"tcp://[::1]:5555":       {"", "tcp://[::1]:5555"},
		"tcp://0.0.0.0:5555":     {"2001:db8::7", "tcp://[2001:db8::7]:5555"},
		"tcp://[::]:5555":        {"192.0.2.7", "tcp://192.0.2.7:5555"},
		"ipc:///run/broker.sock": {"192.0.2.7", "ipc:///run/broker.sock"},
	} {
		got, err := eventplane.ReachableEndpoint(bound, host(c.env))
		if err != nil || got != c.want {
			t.Errorf("%s with host %q: got %s, %v, want %s", bound, c.env, got, err, c.want)
		}
	}
	got, err := eventplane.ReachableEndpoint("tcp://0.0.0.0:5555", host(""))
	address, err2 := netip.ParseAddrPort(strings.TrimPrefix(got, "tcp://"))
	if err != nil || err2 != nil || address.Addr().IsUnspecified() || address.Port() != 5555 {
		t.Errorf("without a host: got %s, %v, want an address of this machine", got, err)
	}
}

func TestReachableEndpointFails(t *testing.T) {
	t.Parallel()
	for bound, c := range map[string]struct{ env, want string }{
		"tcp://127.0.0.1":      {"", "bound endpoint"},
		"tcp://127.0.0.1:5555": {"0.0.0.0", "DYN_EVENT_PLANE_HOST"},
	} {
		if got, err := eventplane.ReachableEndpoint(bound, host(c.env)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s with host %q: got %s, %v, want an error with %q", bound, c.env, got, err, c.want)
		}
	}
}

// host returns an environment with that DYN_EVENT_PLANE_HOST.
func host(value string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		if name == "DYN_EVENT_PLANE_HOST" {
			return value, true
		}
		return "", false
	}
}
