package eventplane

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// ReachableEndpoint returns the endpoint at which peers reach a socket that is bound
// to the given one, such as those of package broker; see [BrokerChannel]. Its host is
// DYN_EVENT_PLANE_HOST if that is set, and otherwise the bound address. If the socket
// is bound to a wildcard address or the name of an interface, it is the address of
// this machine; see [HostFromEnv]. Endpoints that are not TCP are returned unchanged.
func ReachableEndpoint(bound string, lookup func(string) (string, bool)) (string, error) {
	address, isTCP := strings.CutPrefix(bound, "tcp://")
	if !isTCP {
		return bound, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("eventplane: bound endpoint %q: want tcp://HOST:PORT: %w", bound, err)
	}
	env, _ := lookup("DYN_EVENT_PLANE_HOST")
	ip, err := netip.ParseAddr(host)
	if strings.TrimSpace(env) != "" || err != nil || ip.IsUnspecified() {
		if host, err = HostFromEnv(lookup); err != nil {
			return "", err
		}
	}
	return "tcp://" + net.JoinHostPort(host, port), nil
}
