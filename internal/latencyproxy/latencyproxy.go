// Package latencyproxy adds latency to TCP connections, as between data centers:
// bytes arrive later, and as fast as before. It can stall and cut them as well.
package latencyproxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	chunkSize = 64 << 10
	// maxChunks bounds the bytes that are under way in one direction of a
	// connection, to 64 MB. A sender beyond that has to wait.
	maxChunks = 1024

	// dialTimeout also bounds Close.
	dialTimeout = 5 * time.Second
)

// Proxy forwards the connections to its address to a target. It is safe for
// concurrent use.
type Proxy struct {
	listener net.Listener
	target   string
	delay    time.Duration // in each direction
	running  sync.WaitGroup
	done     chan struct{}

	mu       sync.Mutex
	conns    map[net.Conn]struct{} // nil once the proxy is closed
	stalled  chan struct{}         // closed by Resume; nil unless bytes are held back
	refusing bool                  // since Cut
}

// Start starts a proxy on a free port of 127.0.0.1, which delays all bytes by
// delay in each direction: a round trip takes twice as long. Connecting is not
// delayed.
func Start(target string, delay time.Duration) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("latencyproxy: %w", err)
	}
	p := &Proxy{
		listener: listener, target: target, delay: delay,
		done: make(chan struct{}), conns: map[net.Conn]struct{}{},
	}
	p.running.Go(p.accept)
	return p, nil
}

// Addr returns the address, host:port, that the proxy listens on.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Close ends all connections and waits for the goroutines of the proxy. It is
// called once.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	close(p.done)
	p.mu.Lock()
	for conn := range p.conns {
		_ = conn.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.running.Wait()
	if err != nil {
		return fmt.Errorf("latencyproxy: %w", err)
	}
	return nil
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		switch {
		case err != nil: // such as no free file descriptor
			select {
			case <-time.After(10 * time.Millisecond):
			case <-p.done:
			}
		case p.add(conn):
			p.running.Go(func() { p.forward(conn) })
		}
	}
}

func (p *Proxy) remove(conn net.Conn) {
	_ = conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
}

// forward forwards a connection until both directions have ended.
func (p *Proxy) forward(client net.Conn) {
	defer p.remove(client)
	server, err := net.DialTimeout("tcp", p.target, dialTimeout)
	if err != nil || !p.add(server) {
		return
	}
	defer p.remove(server)
	var both sync.WaitGroup
	both.Go(func() { p.pipe(server, client) })
	both.Go(func() { p.pipe(client, server) })
	both.Wait()
}

// chunk is a piece of a stream, and when it arrives. An empty one is its end.
type chunk struct {
	data []byte
	due  time.Time
}

// pipe copies one direction. The end of from arrives as late as its bytes; an
// error in writing ends both directions.
func (p *Proxy) pipe(to, from net.Conn) {
	chunks := make(chan chunk, maxChunks)
	var writer sync.WaitGroup
	writer.Go(func() {
		if err := p.write(to, chunks); err != nil {
			_ = from.Close()
			_ = to.Close()
		}
		for range chunks { // the reader must not block
		}
	})
	buf := make([]byte, chunkSize)
	for {
		n, err := from.Read(buf)
		due := time.Now().Add(p.delay)
		if n > 0 {
			chunks <- chunk{append([]byte(nil), buf[:n]...), due}
		}
		if err != nil {
			chunks <- chunk{due: due}
			break
		}
	}
	close(chunks)
	writer.Wait()
}

// write returns nil after the end of the stream.
func (p *Proxy) write(to net.Conn, chunks <-chan chunk) error {
	for c := range chunks {
		select {
		case <-time.After(time.Until(c.due)):
		case <-p.done:
			return net.ErrClosed
		}
		if !p.open() {
			return net.ErrClosed
		}
		if len(c.data) == 0 {
			if half, ok := to.(*net.TCPConn); ok {
				return half.CloseWrite()
			}
			return io.EOF
		}
		if _, err := to.Write(c.data); err != nil {
			return err
		}
	}
	return nil
}
