package requestplane

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Address is where an endpoint is served. Its text, IP:PORT/PATH, is the field
// "tcp" in the transport of an instance.
type Address struct {
	Host netip.AddrPort
	Path string // an opaque key; see Endpoint for the one of Dynamo
}

// ParseAddress parses IP:PORT/PATH. Dynamo accepts no names of hosts either.
func ParseAddress(s string) (Address, error) {
	host, path, _ := strings.Cut(s, "/")
	addr, err := parseHost(host)
	if err != nil {
		return Address{}, fmt.Errorf("requestplane: address %q: %w", excerpt(s), err)
	}
	a := Address{addr, path}
	if err := checkPath(path); err != nil {
		return Address{}, fmt.Errorf("requestplane: address %q: %w", excerpt(s), err)
	}
	return a, nil
}

// String returns IP:PORT/PATH, with an IPv6 address in brackets.
func (a Address) String() string { return a.Host.String() + "/" + a.Path }

func checkPath(path string) error {
	if path == "" || len(path) > maxPath || !utf8.ValidString(path) {
		return fmt.Errorf("path %q: want 1 to %d bytes of UTF-8", excerpt(path), maxPath)
	}
	return nil
}

// parseHost parses IP:PORT. Dynamo 1.3 writes IPv6 addresses without brackets.
func parseHost(s string) (netip.AddrPort, error) {
	i := max(strings.LastIndexByte(s, ':'), 0)
	host := s[:i]
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("host %q: want the IP address and port of a peer", excerpt(s))
	}
	port, err := strconv.ParseUint(s[i+1:], 10, 16)
	addr = addr.Unmap()
	if err != nil || port == 0 || addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("host %q: want the IP address and port of a peer", excerpt(s))
	}
	return netip.AddrPortFrom(addr, uint16(port)), nil
}

// Endpoint is an endpoint of a Dynamo instance, of which the path in an [Address]
// is made. Paths of Dynamo 1.3 contain neither namespace nor component.
type Endpoint struct {
	Instance                   uint64
	Namespace, Component, Name string
}

var (
	escaper   = strings.NewReplacer("%", "%25", "/", "%2F")
	unescaper = strings.NewReplacer("%25", "%", "%2F", "/", "%2f", "/")
)

// Path returns {instance in hex}/{namespace}/{component}/{name}, or the form of
// Dynamo 1.3, {instance in hex}/{name}, if namespace and component are empty.
func (e Endpoint) Path() string {
	id := strconv.FormatUint(e.Instance, 16)
	if e.Namespace == "" && e.Component == "" {
		return id + "/" + e.Name
	}
	return id + "/" + escaper.Replace(e.Namespace) + "/" + escaper.Replace(e.Component) + "/" + escaper.Replace(e.Name)
}

// ParsePath parses what [Endpoint.Path] returns. A server may use other paths.
func ParsePath(path string) (Endpoint, error) {
	parts := strings.Split(path, "/")
	instance, err := strconv.ParseUint(parts[0], 16, 64)
	if err == nil && strconv.FormatUint(instance, 16) == parts[0] {
		switch len(parts) {
		case 2:
			return Endpoint{Instance: instance, Name: parts[1]}, nil
		case 4:
			return Endpoint{instance, unescaper.Replace(parts[1]), unescaper.Replace(parts[2]), unescaper.Replace(parts[3])}, nil
		}
	}
	return Endpoint{}, fmt.Errorf("requestplane: path %q: want HEX/NAMESPACE/COMPONENT/ENDPOINT or HEX/ENDPOINT", excerpt(path))
}
