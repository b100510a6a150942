package latencyproxy

import "net"

// Stall holds back all bytes until Resume, as a network without a route does: no
// connection ends, new ones are accepted, and nothing arrives.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled == nil {
		p.stalled = make(chan struct{})
	}
}

// Cut ends all connections, and new ones at once, until Resume.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = true
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// Resume ends Stall and Cut. Bytes that were held back arrive.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = false
	if p.stalled != nil {
		close(p.stalled)
		p.stalled = nil
	}
}

// open blocks while the proxy is stalled, and reports false once it is closed.
func (p *Proxy) open() bool {
	for {
		p.mu.Lock()
		stalled := p.stalled
		p.mu.Unlock()
		if stalled == nil {
			return true
		}
		select {
		case <-stalled:
		case <-p.done:
			return false
		}
	}
}

// add keeps a connection for Close and Cut. It closes it and reports false if the
// proxy is closed already, or refuses connections.
func (p *Proxy) add(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil || p.refusing {
		_ = conn.Close()
		return false
	}
	p.conns[conn] = struct{}{}
	return true
}
