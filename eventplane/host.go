package eventplane

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// HostFromEnv returns the IP address that peers connect to. It is the value of
// DYN_EVENT_PLANE_HOST: an address, or the exact name of an interface, with
// blanks around it ignored. If the variable is unset or empty, it is the source
// address of packets that leave this machine, IPv4 before IPv6, or 127.0.0.1 if
// there is no such address.
//
// A wildcard address, an address with a zone and an interface without a usable
// address are errors. Use net.JoinHostPort to build an endpoint: it puts IPv6
// addresses in brackets.
func HostFromEnv(lookup func(string) (string, bool)) (string, error) {
	host, err := environment{lookup: lookup}.host()
	if err != nil {
		return "", fmt.Errorf("eventplane: %w", err)
	}
	if host == "" {
		host = localHost()
	}
	return host, nil
}

// host returns "" if DYN_EVENT_PLANE_HOST is unset.
func (env environment) host() (string, error) {
	value := strings.TrimSpace(env.get("DYN_EVENT_PLANE_HOST"))
	if value == "" {
		return "", nil
	}
	addr, err := resolveHost(value)
	if err != nil {
		return "", fmt.Errorf("DYN_EVENT_PLANE_HOST: %w", err)
	}
	return addr.String(), nil
}

// resolveHost returns the address itself or that of the interface.
func resolveHost(value string) (netip.Addr, error) {
	if _, err := netip.ParseAddr(value); err == nil {
		return parseHost(value)
	}
	iface, err := net.InterfaceByName(value)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("host %q: want an IP address or the name of an interface: %w", value, err)
	}
	addrs, err := iface.Addrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("host %q: addresses of the interface: %w", value, err)
	}
	if addr, ok := pick(addrs, netip.Addr.IsValid); ok {
		return addr, nil
	}
	return netip.Addr{}, fmt.Errorf("host %q: the interface has no address that peers can reach: want one with a global address", value)
}

// localHost consults the routing table first: connecting a UDP socket sends no
// packet. The remote addresses are reserved for documentation.
func localHost() string {
	for _, far := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		conn, err := net.Dial("udp", far)
		if err != nil {
			continue
		}
		local := conn.LocalAddr()
		_ = conn.Close()
		if addr, ok := pick([]net.Addr{local}, reachable); ok {
			return addr.String()
		}
	}
	if addrs, err := net.InterfaceAddrs(); err == nil {
		if addr, ok := pick(addrs, reachable); ok {
			return addr.String()
		}
	}
	return "127.0.0.1"
}

func reachable(addr netip.Addr) bool { return !addr.IsLoopback() }

// pick returns the first address for which want returns true, IPv4 before IPv6.
// It skips link-local addresses, which are useless to a peer without the name of
// the interface.
func pick(addrs []net.Addr, want func(netip.Addr) bool) (netip.Addr, bool) {
	var six netip.Addr
	for _, a := range addrs {
		addr := toAddr(a)
		if !addr.IsValid() || addr.IsUnspecified() || addr.IsLinkLocalUnicast() || !want(addr) {
			continue
		}
		if addr.Is4() {
			return addr, true
		}
		if !six.IsValid() {
			six = addr
		}
	}
	return six, six.IsValid()
}

// toAddr returns the invalid Addr for other types of address.
func toAddr(a net.Addr) netip.Addr {
	var ip net.IP
	switch a := a.(type) {
	case *net.IPNet:
		ip = a.IP
	case *net.UDPAddr:
		ip = a.IP
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
