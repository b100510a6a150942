package requestplane

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"127.0.0.1:46105/2a/dynamo/backend/generate": "127.0.0.1:46105/2a/dynamo/backend/generate",
		"[::1]:45019/2a/generate":                    "[::1]:45019/2a/generate",
		"::1:45019/2a/generate":                      "[::1]:45019/2a/generate", // as Dynamo 1.3 writes it
		"[::ffff:10.0.0.1]:1/p":                      "10.0.0.1:1/p",
		"localhost:1/p":                              "",
		"127.0.0.1/p":                                "",
		"127.0.0.1:1/":                               "",
		"127.0.0.1:1":                                "",
		"127.0.0.1:0/p":                              "",
		"127.0.0.1:65536/p":                          "",
		"0.0.0.0:1/p":                                "",
		"[::]:1/p":                                   "",
		"224.0.0.1:1/p":                              "",
		"[fe80::1%eth0]:1/p":                         "",
		"127.0.0.1:1/" + strings.Repeat("p", 5000):   "",
		"127.0.0.1:1/\xff":                           "",
		"":                                           "",
	} {
		a, err := ParseAddress(in)
		if got := a.String(); (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%q: %s, error %v, want %q", in, got, err, want)
		}
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]Endpoint{
		"2a/dynamo/backend/generate":        {0x2a, "dynamo", "backend", "generate"},
		"ffffffffffffffff/a%2Fb/c%25/d%252": {1<<64 - 1, "a/b", "c%", "d%2"},
		"0/generate":                        {0, "", "", "generate"},
		"7/%2525/%25252F/%252525":           {7, "%25", "%252F", "%2525"},
	} {
		if got := e.Path(); got != want {
			t.Errorf("path %q, want %q", got, want)
		}
		if got, err := ParsePath(want); err != nil || got != e {
			t.Errorf("endpoint %+v, error %v, want %+v", got, err, e)
		}
	}
	for _, path := range []string{"", "2a", "02a/e", "2A/e", "x/e", "2a/n/c", "2a/n/c/e/f"} {
		if e, err := ParsePath(path); err == nil {
			t.Errorf("path %q is %+v, want an error", path, e)
		}
	}
}

func TestFirstAddress(t *testing.T) {
	t.Parallel()
	var addrs []net.Addr
	for _, s := range []string{"127.0.0.1/8", "::1/128", "fe80::1/64", "2001:db8::1/64", "10.0.0.7/24", "10.0.0.8/24"} {
		p := netip.MustParsePrefix(s)
		addrs = append(addrs, &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
	}
	for _, c := range []struct {
		addrs         []net.Addr
		six, loopback bool
		want          string
	}{
		{addrs, false, false, "10.0.0.7"},
		{addrs, true, false, "2001:db8::1"},
		{addrs, false, true, "127.0.0.1"},
		{addrs[:4], false, false, "2001:db8::1"},
		{addrs[4:], true, false, "10.0.0.7"},
		{addrs[:3], false, false, ""},
	} {
		got, ok := first(c.addrs, c.six, c.loopback)
		if want, _ := netip.ParseAddr(c.want); got != want || ok != (c.want != "") {
			t.Errorf("address %v, want %q", got, c.want)
		}
	}
}

func TestListenAddresses(t *testing.T) {
	t.Parallel()
	for _, listenOn := range []string{"", "0.0.0.0:0", "[::]:0"} {
		l, addr, err := listen(listenOn, netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		if !addr.IsValid() || addr.Addr().IsUnspecified() || addr.Port() == 0 {
			t.Errorf("listening on %q advertises %v", listenOn, addr)
		}
	}
	for _, invalid := range []string{"127.0.0.1", "no such interface:1", "127.0.0.1:99999"} {
		if l, _, err := listen(invalid, netip.AddrPort{}); err == nil {
			_ = l.Close()
			t.Errorf("listening on %q succeeded", invalid)
		}
	}
}
