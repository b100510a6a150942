package requestplane

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dynplane/dynplane/internal/wait"
)

// stream is a connection whose reads and writes fail once its context is done, or
// when nothing has moved for a time. Transfers last as long as they progress.
type stream struct {
	net.Conn
	ctx     context.Context
	idle    atomic.Int64 // a time.Duration; 0 is no limit
	release func()       // ends the effect of the context; idempotent
}

// newStream takes over conn. The stream must be closed.
func newStream(ctx context.Context, conn net.Conn, idle time.Duration) *stream {
	s := &stream{Conn: conn, ctx: ctx}
	s.idle.Store(int64(idle))
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = conn.SetDeadline(time.Unix(1, 0))
	})
	s.release = sync.OnceFunc(func() {
		if !stop() {
			<-done
		}
	})
	return s
}

// deadline returns the time until which the next step may take.
func (s *stream) deadline() (t time.Time) {
	if idle := time.Duration(s.idle.Load()); idle > 0 {
		t = time.Now().Add(idle)
	}
	return t
}

// Read implements io.Reader. The context is checked after the deadline is set,
// since setting it may have replaced the deadline by which the context ends reads.
func (s *stream) Read(p []byte) (int, error) {
	if err := s.SetReadDeadline(s.deadline()); err != nil {
		return 0, err
	}
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.Conn.Read(p)
}

// Write implements io.Writer. Each chunk has a deadline of its own.
func (s *stream) Write(p []byte) (written int, err error) {
	const chunk = 64 << 10
	for first := true; first || written < len(p); first = false {
		if err := s.SetWriteDeadline(s.deadline()); err != nil {
			return written, err
		}
		if err := s.ctx.Err(); err != nil {
			return written, err
		}
		n, err := s.Conn.Write(p[written:min(len(p), written+chunk)])
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Close closes the connection at once. The peer can lose bytes that were written
// if it has sent some that were not read.
func (s *stream) Close() error {
	s.release()
	return abort(s.Conn)
}

// abort closes the connection below TLS, whose own Close can block for seconds.
func abort(conn net.Conn) error { return below(conn).Close() }

// below returns the connection below TLS.
func below(conn net.Conn) net.Conn {
	if t, ok := conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return conn
}

// discard has Close discard the bytes that the peer has not taken, which the
// system would keep for minutes.
func (s *stream) discard() {
	if t, ok := below(s.Conn).(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
}

// finish closes the direction of writing.
func (s *stream) finish() {
	if t, ok := s.Conn.(*tls.Conn); ok {
		_ = t.SetWriteDeadline(time.Now().Add(time.Second)) // for a few bytes
		_ = t.CloseWrite()
	}
	if t, ok := below(s.Conn).(*net.TCPConn); ok {
		_ = t.CloseWrite()
	}
}

// dial connects, with TLS if it is configured.
func dial(ctx context.Context, to netip.AddrPort, t TLS, timeout time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: cmp.Or(timeout, defaultConnectTimeout)}
	conn, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil || t.Dialer == nil {
		return conn, err
	}
	config := t.Dialer
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName = to.Addr().String()
	}
	return shake(ctx, tls.Client(conn, config), t)
}

// accepted returns a connection that was accepted, with TLS if it is configured.
func accepted(ctx context.Context, conn net.Conn, t TLS) (net.Conn, error) {
	if t.Listener == nil {
		return conn, nil
	}
	return shake(ctx, tls.Server(conn, t.Listener), t)
}

func shake(ctx context.Context, conn *tls.Conn, t TLS) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(t.HandshakeTimeout, defaultHandshakeTimeout))
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = conn.NetConn().Close()
		return nil, err
	}
	return conn, nil
}

// acceptAll accepts connections until the listener is closed, and retries errors,
// such as that there is no free file descriptor.
func acceptAll(ctx context.Context, l net.Listener, log *slog.Logger, handle func(net.Conn)) {
	backoff := wait.Backoff{Min: 10 * time.Millisecond, Max: time.Second}
	for failing := false; ; {
		conn, err := l.Accept()
		switch {
		case err == nil:
			failing = false
			backoff.Reset()
			handle(conn)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			if !failing {
				log.Warn("requestplane: accept failed, retrying", "address", l.Addr(), "error", err)
			}
			failing = true
			if wait.Sleep(ctx, backoff.Next()) != nil {
				return
			}
		}
	}
}

// bufferSize is that of readers and writers; larger reads and writes bypass them.
const bufferSize = 4 << 10

func newReader(s *stream) *bufio.Reader { return bufio.NewReaderSize(s, bufferSize) }
