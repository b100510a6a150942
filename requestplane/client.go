package requestplane

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultIdleTimeout = 30 * time.Second
	defaultAckTimeout  = 5 * time.Second
	defaultMaxAnswer   = 256 << 20

	// handshakeWait bounds the wait for the first frame of a server.
	handshakeWait = 10 * time.Second
	// maxHandshakes bounds the connections that have not sent that frame yet.
	maxHandshakes = 1024
)

// ClientOptions are the options of a client. The zero value is ready to use.
type ClientOptions struct {
	// Listen is the host:port on which servers call home. The host is an IP
	// address or the name of an interface. If it is empty, it is the first
	// address of this machine that is not a loopback address; a wildcard
	// listens on all addresses and advertises that one. Port 0 is any port.
	Listen string

	// Advertise is the address that servers connect to, if it differs from the
	// one that the client listens on.
	Advertise netip.AddrPort

	TLS TLS

	// MaxAnswer bounds the bytes of an item as it is sent; 0 means 256 MiB. A
	// call takes up to twice as much memory while an item arrives.
	MaxAnswer int64

	ConnectTimeout time.Duration // 0 means 5 s
	AckTimeout     time.Duration // from the end of a request to its acknowledgement; 0 means 5 s

	Logger *slog.Logger // nil discards
}

// ClientStats are counters of a client since its start.
type ClientStats struct {
	Calls    uint64 // begun
	Refused  uint64 // by a server, before its handler
	Complete uint64 // received to the end

	// Connections to the client's port that were no answer.
	BadHandshakes   uint64 // invalid, too large, or too late
	UnknownSubjects uint64 // of a call that has ended, or was never made
	Evicted         uint64 // replaced by newer ones before they had sent anything
}

// Client calls endpoints. It has one listener for the answers to all calls.
type Client struct {
	options ClientOptions
	addr    netip.AddrPort
	accept  net.Listener
	life    context.Context
	end     context.CancelFunc
	running sync.WaitGroup // goroutines of the client; calls run in those of their callers
	pending crowd          // connections without a subject

	mu      sync.Mutex
	waiting map[string]chan *stream // calls, by subject

	calls, refused, complete, bad, unknown, evicted atomic.Uint64
}

// NewClient opens the listener of a client. The client must be closed.
func NewClient(options ClientOptions) (*Client, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	options.MaxAnswer = cmp.Or(options.MaxAnswer, defaultMaxAnswer)
	options.AckTimeout = cmp.Or(options.AckTimeout, defaultAckTimeout)
	if options.MaxAnswer < 0 || options.AckTimeout < 0 || options.ConnectTimeout < 0 {
		return nil, errors.New("requestplane: client: negative option")
	}
	l, addr, err := listen(options.Listen, options.Advertise)
	if err != nil {
		return nil, fmt.Errorf("requestplane: client: %w", err)
	}
	c := &Client{options: options, addr: addr, accept: l, waiting: make(map[string]chan *stream)}
	c.pending = crowd{max: maxHandshakes, evicted: &c.evicted}
	c.life, c.end = context.WithCancel(context.Background())
	c.running.Go(func() {
		acceptAll(c.life, l, options.Logger, func(conn net.Conn) {
			leave := c.pending.add(remote(conn).Addr(), func() { _ = conn.Close() })
			c.running.Go(func() {
				defer leave()
				c.receive(conn, leave)
			})
		})
	})
	options.Logger.Debug("requestplane: client listens", "address", l.Addr(), "advertised", addr)
	return c, nil
}

// Stats returns the present counters.
func (c *Client) Stats() ClientStats {
	return ClientStats{Calls: c.calls.Load(), Refused: c.refused.Load(), Complete: c.complete.Load(),
		BadHandshakes: c.bad.Load(), UnknownSubjects: c.unknown.Load(), Evicted: c.evicted.Load()}
}

// Close ends all calls, whose error is [ErrClosed], and closes the listener. It is
// idempotent, and does not wait for the goroutines of callers.
func (c *Client) Close() error {
	c.end()
	_ = c.accept.Close()
	c.pending.close()
	c.running.Wait()
	return nil
}

// expect registers a call, and returns its subject and the channel of its stream.
func (c *Client) expect() (subject string, home chan *stream) {
	subject, home = newUUID(), make(chan *stream, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting[subject] = home
	return subject, home
}

// forget ends the registration of a call, and closes its stream.
func (c *Client) forget(subject string, home chan *stream) {
	c.mu.Lock()
	delete(c.waiting, subject)
	c.mu.Unlock()
	select { // nothing is sent to it any more
	case s := <-home:
		_ = s.Close()
	default:
	}
}

// receive reads the handshake of a connection and hands it to the call of its
// subject, which is after it has left the crowd.
func (c *Client) receive(raw net.Conn, leave func()) {
	ctx, cancel := context.WithTimeout(c.life, handshakeWait)
	defer cancel()
	conn, err := accepted(ctx, raw, c.options.TLS)
	if err != nil {
		c.reject(raw, &c.bad, err)
		return
	}
	s := newStream(ctx, conn, 0)
	f, err := readFrame(s, maxHandshake, 0)
	var subject string
	if err == nil {
		subject, err = decodeHandshake(f.header)
	}
	s.release() // the call has a context of its own
	if err != nil {
		c.reject(raw, &c.bad, err)
		return
	}
	leave()
	c.mu.Lock()
	home, ok := c.waiting[subject]
	if ok {
		delete(c.waiting, subject)
		home <- s // the only one, and there is room for one
	}
	c.mu.Unlock()
	if !ok {
		c.reject(raw, &c.unknown, errors.New("no call of that subject"))
	}
}

func (c *Client) reject(conn net.Conn, counter *atomic.Uint64, err error) {
	counter.Add(1)
	c.options.Logger.Debug("requestplane: connection is no answer", "peer", conn.RemoteAddr(), "error", err)
	_ = conn.Close()
}

// newUUID returns a random UUID, of version 4.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
