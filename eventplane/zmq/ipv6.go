//go:build cgo && !nozmq

package zmq

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"time"
)

// lookupTimeout bounds the lookup of a name. If it fails, the name counts as one
// with IPv4 addresses.
const lookupTimeout = time.Second

// lookupFunc is the signature of net.Resolver.LookupNetIP.
type lookupFunc func(ctx context.Context, network, host string) ([]netip.Addr, error)

// needsIPv6 reports whether an endpoint has an IPv6 literal, or a name without
// an IPv4 address.
func needsIPv6(endpoint string, lookup lookupFunc) bool {
	address, ok := strings.CutPrefix(endpoint, "tcp://")
	if !ok || strings.HasPrefix(address, "[") {
		return ok
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil || host == "" || host == "*" {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	if v4, _ := lookup(ctx, "ip4", host); len(v4) > 0 {
		return false
	}
	v6, _ := lookup(ctx, "ip6", host)
	return len(v6) > 0
}
