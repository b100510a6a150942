package requestplane

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// listen opens the listener of a client or a server, and returns the address that
// peers connect to. addr is host:port; an empty host is the first address of this
// machine that is not a loopback address, IPv4 before IPv6. If the host is a
// wildcard, that address is advertised.
func listen(addr string, advertise netip.AddrPort) (net.Listener, netip.AddrPort, error) {
	var none netip.AddrPort
	host, port := "", "0"
	if addr != "" {
		var err error
		if host, port, err = net.SplitHostPort(addr); err != nil {
			return nil, none, fmt.Errorf("listen on %q: want HOST:PORT: %w", addr, err)
		}
	}
	bind, err := resolve(host)
	if err != nil {
		return nil, none, err
	}
	var config net.ListenConfig
	l, err := config.Listen(context.Background(), "tcp", net.JoinHostPort(bind.String(), port))
	if err != nil {
		return nil, none, err
	}
	if advertise.IsValid() {
		return l, advertise, nil
	}
	bound := l.Addr().(*net.TCPAddr).AddrPort()
	if bind.IsUnspecified() {
		bind = localAddr(bind.Is6())
	}
	return l, netip.AddrPortFrom(bind, bound.Port()), nil
}

// resolve returns the address of a host: an IP address, in brackets or not, or
// the name of an interface.
func resolve(host string) (netip.Addr, error) {
	if host == "" {
		return localAddr(false), nil
	}
	literal := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if addr, err := netip.ParseAddr(literal); err == nil {
		return addr.Unmap(), nil
	}
	iface, err := net.InterfaceByName(host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("host %q: want an IP address or the name of an interface: %w", host, err)
	}
	addrs, err := iface.Addrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("host %q: addresses of the interface: %w", host, err)
	}
	if addr, ok := first(addrs, false, true); ok {
		return addr, nil
	}
	return netip.Addr{}, fmt.Errorf("host %q: the interface has no address that peers can reach", host)
}

// localAddr returns the first address of this machine that is not a loopback
// address, or else a loopback address. IPv4 comes before IPv6 unless six.
func localAddr(six bool) netip.Addr {
	addrs, _ := net.InterfaceAddrs() // none is as good as an error
	if addr, ok := first(addrs, six, false); ok {
		return addr
	}
	if six {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// first returns the first usable address, of the other family if there is none of
// the preferred one. Link-local addresses mean nothing on another machine.
func first(addrs []net.Addr, six, loopback bool) (found netip.Addr, ok bool) {
	for _, a := range addrs {
		ipnet, is := a.(*net.IPNet)
		if !is {
			continue
		}
		addr, _ := netip.AddrFromSlice(ipnet.IP)
		addr = addr.Unmap()
		switch {
		case !addr.IsValid() || addr.IsLinkLocalUnicast() || addr.IsLoopback() && !loopback:
		case addr.Is6() == six:
			return addr, true
		case !ok:
			found, ok = addr, true
		}
	}
	return found, ok
}

// hostPort returns the address to listen on from the values of two variables.
func hostPort(host, port string) (string, error) {
	if host = strings.TrimSpace(host); host != "" {
		addr, err := resolve(host)
		if err != nil {
			return "", err
		}
		host = addr.String()
	}
	if port == "" {
		port = "0"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("port %q: want an integer from 0 to 65535", port)
	}
	return net.JoinHostPort(host, port), nil
}
