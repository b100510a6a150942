package requestplane

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// crowd is a bounded set of things that peers hold, in the order of arrival. A
// newcomer to a full crowd replaces the oldest of the host that has most of them:
// a flood of one host harms no other. On its own host, honest peers are done in
// a moment, and it takes as many newcomers to replace one.
type crowd struct {
	max     int
	evicted *atomic.Uint64

	mu      sync.Mutex
	members list.List // of *member
	hosts   map[netip.Addr]int
	closed  bool
}

type member struct {
	host netip.Addr
	end  func()
}

// add adds a member of a host, and returns the function that removes it, which is
// idempotent. end is called, once, if the member is replaced or the crowd closed.
func (c *crowd) add(host netip.Addr, end func()) (leave func()) {
	m := &member{hostKey(host), end}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		end()
		return func() {}
	}
	var replaced *member
	if c.members.Len() >= c.max {
		replaced = c.remove(c.oldest())
		c.evicted.Add(1)
	}
	if c.hosts == nil {
		c.hosts = make(map[netip.Addr]int)
	}
	c.hosts[m.host]++
	e := c.members.PushBack(m)
	c.mu.Unlock()
	if replaced != nil {
		replaced.end()
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.remove(e)
	}
}

// oldest returns the oldest member of the host that has most.
func (c *crowd) oldest() (oldest *list.Element) {
	most := 0
	for e := c.members.Front(); e != nil; e = e.Next() {
		if n := c.hosts[e.Value.(*member).host]; n > most {
			oldest, most = e, n
		}
	}
	return oldest
}

// remove removes a member, unless it has been removed.
func (c *crowd) remove(e *list.Element) *member {
	before := c.members.Len()
	m := c.members.Remove(e).(*member)
	if c.members.Len() == before {
		return m
	}
	if c.hosts[m.host]--; c.hosts[m.host] == 0 {
		delete(c.hosts, m.host)
	}
	return m
}

// close ends all members, and newcomers at once.
func (c *crowd) close() {
	c.mu.Lock()
	c.closed = true
	var ended []*member
	for c.members.Len() > 0 {
		ended = append(ended, c.remove(c.members.Front()))
	}
	c.mu.Unlock()
	for _, m := range ended {
		m.end()
	}
}

// hostKey returns what identifies a host: its IPv4 address, or the network of its
// IPv6 address, of which one host can have all addresses.
func hostKey(addr netip.Addr) netip.Addr {
	if addr = addr.Unmap(); addr.Is6() {
		network, _ := addr.WithZone("").Prefix(64) // always valid
		return network.Addr()
	}
	return addr
}

// remote returns the address of the peer.
func remote(conn net.Conn) netip.AddrPort {
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	addr := tcp.AddrPort()
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}
