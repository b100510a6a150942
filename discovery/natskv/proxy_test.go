package natskv_test

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy forwards connections to a server. Once it is deaf, the existing ones
// lose everything that the server sends.
type proxy struct {
	t        *testing.T
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu    sync.Mutex
	pairs []*proxyPair
}

type proxyPair struct {
	client, server net.Conn
	deaf           atomic.Bool
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, listener: listener, target: target}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		p.each(func(pair *proxyPair) { _, _ = pair.client.Close(), pair.server.Close() })
		p.wg.Wait()
	})
	return p
}

func (p *proxy) url() string { return "nats://" + p.listener.Addr().String() }

func (p *proxy) each(do func(*proxyPair)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pair := range p.pairs {
		do(pair)
	}
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		pair := &proxyPair{client: client, server: server}
		p.mu.Lock()
		p.pairs = append(p.pairs, pair)
		p.mu.Unlock()
		p.wg.Go(func() { _, _ = io.Copy(server, client) })
		p.wg.Go(func() { _, _ = io.Copy(pair, server) })
	}
}

// Write forwards bytes of the server.
func (pair *proxyPair) Write(b []byte) (int, error) {
	if pair.deaf.Load() {
		return len(b), nil
	}
	return pair.client.Write(b)
}
