//go:build cgo && !nozmq

package zmq

import (
	"context"
	"errors"
	"net/netip"
	"testing"
)

func TestNeedsIPv6(t *testing.T) {
	t.Parallel()
	addresses := map[string][]netip.Addr{
		"ip4 both": {netip.MustParseAddr("10.0.0.1")},
		"ip6 both": {netip.MustParseAddr("fd00::1")},
		"ip4 old":  {netip.MustParseAddr("10.0.0.2")},
		"ip6 new":  {netip.MustParseAddr("fd00::3")},
	}
	lookup := func(_ context.Context, network, host string) ([]netip.Addr, error) {
		if found := addresses[network+" "+host]; found != nil {
			return found, nil
		}
		return nil, errors.New("no such host")
	}
	for endpoint, want := range map[string]bool{
		"tcp://new:1": true, "tcp://[::1]:1": true, "tcp://both:1": false, "tcp://old:1": false,
		"tcp://unknown:1": false, "tcp://10.0.0.1:1": false, "tcp://new": false, "ipc://new:1": false, "new:1": false,
	} {
		if got := needsIPv6(endpoint, lookup); got != want {
			t.Errorf("%s: got %v, want %v", endpoint, got, want)
		}
	}
}
