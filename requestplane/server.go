package requestplane

import (
	"cmp"
	"context"
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
	defaultMaxRequest  = 32 << 20
	defaultMaxHandlers = 1024
	defaultMaxConns    = 1024

	// queueFactor is the number of calls that wait, for each that runs, as in Dynamo.
	queueFactor = 4
	// maxDials bounds the connections to clients that are not open yet.
	maxDials = 1024
	// maxLeaving bounds the answered calls whose clients have not closed yet.
	maxLeaving = 1024
	// memoryFactor is how many requests of maximum size are in memory at once.
	// Requests of up to freeSize do not count.
	memoryFactor = 8
	freeSize     = 64 << 10

	lingerTime = 10 * time.Second
)

// ServerOptions are the options of a server. The zero value is ready to use.
type ServerOptions struct {
	// Listen and Advertise are as in [ClientOptions].
	Listen    string
	Advertise netip.AddrPort

	TLS TLS

	// AllowCallHome reports whether the server may connect to home, for a request
	// from the address from. nil allows all addresses, which is safe only if all
	// who reach the port are trusted; see the documentation of the package.
	// It must be safe for concurrent use.
	AllowCallHome func(from, home netip.AddrPort) bool

	MaxRequest  int64 // bytes of a request; 0 means 32 MiB
	MaxHandlers int   // calls of handlers at once; 0 means 1,024. Four times as many wait
	MaxConns    int   // connections of clients that have sent a request, and as many others; 0 means 1,024

	// IdleTimeout bounds the wait for the next bytes of a request that has begun,
	// and for a client to take bytes of an answer; 0 means 30 s. A connection
	// between two requests has no time limit.
	IdleTimeout    time.Duration
	ConnectTimeout time.Duration // of calling home; 0 means 5 s

	Logger *slog.Logger // nil discards
}

// SameHost is a ServerOptions.AllowCallHome that allows the host that sent the
// request. Clients behind different addresses for the two directions are refused.
func SameHost(from, home netip.AddrPort) bool { return from.Addr().Unmap() == home.Addr() }

// InPrefixes returns a ServerOptions.AllowCallHome that allows the addresses in
// any of the prefixes.
func InPrefixes(prefixes ...netip.Prefix) func(from, home netip.AddrPort) bool {
	return func(_, home netip.AddrPort) bool {
		for _, p := range prefixes {
			if p.Contains(home.Addr()) {
				return true
			}
		}
		return false
	}
}

// ServerStats are counters of a server since its start.
type ServerStats struct {
	Requests uint64 // accepted
	Complete uint64 // answered to the end
	Stopped  uint64 // ended by the client before, as is usual after a first item
	Failed   uint64 // ended by an error of the handler

	// Requests without an answer.
	UnknownEndpoint uint64
	Invalid         uint64 // bytes that are no request, or none that is supported
	TooLarge        uint64
	Denied          uint64 // by AllowCallHome
	Overloaded      uint64 // too many calls, or too much memory in requests
	CallHomeFailed  uint64 // the client could not be reached
	WriteFailed     uint64 // the client did not take the answer in time

	Evicted uint64 // connections, pending connects and unclosed answers that newer ones replaced
}

// Request is a request as a handler receives it.
type Request struct {
	Path     string
	Codec    Codec             // of the payload, and of the items of the answer
	Payload  []byte            // untrusted; the handler owns it
	ID       string            // chosen by the client
	Headers  map[string]string // such as traceparent
	Metadata map[string]string
	From     netip.AddrPort // the client
}

// Handler answers a request: it calls send for each item and returns. send must
// not be called concurrently, nor after the return; it keeps no reference to the
// item, which is one value in the codec of the request, and neither empty nor null.
//
// ctx ends when the client ends the call, with the cause [ErrStopped], or when the
// server is closed; send returns its cause then, and the handler must return. An
// error before the first item becomes a [RemoteError] of the client. After an
// item, which the protocol has no error for, the client receives [ErrIncomplete].
type Handler func(ctx context.Context, r *Request, send func(item []byte) error) error

// Server serves any number of endpoints on one port.
type Server struct {
	options ServerOptions
	addr    netip.AddrPort
	accept  net.Listener
	linger  time.Duration

	life     context.Context // of handlers
	end      context.CancelCauseFunc
	draining chan struct{} // closed by Shutdown
	running  sync.WaitGroup

	unproven, proven crowd // connections, without and with a request
	dials, leaving   crowd
	slots            chan struct{} // one for each running handler
	waiting          atomic.Int64  // for a slot, or in it
	memory           atomic.Int64  // bytes of requests above freeSize

	mu       sync.RWMutex
	handlers map[string]*Handler
	closed   bool

	stats serverCounters
}

type serverCounters struct {
	requests, complete, stopped, failed, unknown, invalid, tooLarge,
	denied, overloaded, callHome, write, evicted atomic.Uint64
}

// NewServer opens the port of a server. The server must be shut down or closed.
func NewServer(options ServerOptions) (*Server, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.MaxRequest < 0 || options.MaxHandlers < 0 || options.MaxConns < 0 || options.IdleTimeout < 0 || options.ConnectTimeout < 0 {
		return nil, errors.New("requestplane: server: negative option")
	}
	options.MaxRequest = cmp.Or(options.MaxRequest, defaultMaxRequest)
	options.MaxHandlers = cmp.Or(options.MaxHandlers, defaultMaxHandlers)
	options.MaxConns = cmp.Or(options.MaxConns, defaultMaxConns)
	options.IdleTimeout = cmp.Or(options.IdleTimeout, defaultIdleTimeout)
	l, addr, err := listen(options.Listen, options.Advertise)
	if err != nil {
		return nil, fmt.Errorf("requestplane: server: %w", err)
	}
	s := &Server{options: options, addr: addr, accept: l, linger: lingerTime, draining: make(chan struct{}),
		slots: make(chan struct{}, options.MaxHandlers), handlers: make(map[string]*Handler)}
	evicted := &s.stats.evicted
	s.unproven, s.proven = crowd{max: options.MaxConns, evicted: evicted}, crowd{max: options.MaxConns, evicted: evicted}
	s.dials, s.leaving = crowd{max: maxDials, evicted: evicted}, crowd{max: maxLeaving, evicted: evicted}
	s.life, s.end = context.WithCancelCause(context.Background())
	s.running.Go(func() {
		acceptAll(s.life, l, options.Logger, func(conn net.Conn) {
			leave := s.unproven.add(remote(conn).Addr(), func() { _ = conn.Close() })
			s.running.Go(func() { s.serve(conn, leave) })
		})
	})
	options.Logger.Debug("requestplane: server listens", "address", l.Addr(), "advertised", addr)
	return s, nil
}

// Handle serves an endpoint until remove is called, which does not end its running
// calls. A path that is served already is an error.
func (s *Server) Handle(path string, h Handler) (remove func(), err error) {
	if err := checkPath(path); err != nil {
		return nil, fmt.Errorf("requestplane: handle: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("requestplane: handle %q: %w", path, ErrClosed)
	}
	if s.handlers[path] != nil {
		return nil, fmt.Errorf("requestplane: handle %q: the path is served already: want another", path)
	}
	own := &h
	s.handlers[path] = own
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.handlers[path] == own {
			delete(s.handlers, path)
		}
	}, nil
}

func (s *Server) handler(path string) Handler {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if h := s.handlers[path]; h != nil {
		return *h
	}
	return nil
}

// Address returns the address of an endpoint, to be registered.
func (s *Server) Address(path string) Address { return Address{s.addr, path} }

// Stats returns the present counters.
func (s *Server) Stats() ServerStats {
	c := &s.stats
	return ServerStats{
		Requests: c.requests.Load(), Complete: c.complete.Load(), Stopped: c.stopped.Load(), Failed: c.failed.Load(),
		UnknownEndpoint: c.unknown.Load(), Invalid: c.invalid.Load(), TooLarge: c.tooLarge.Load(), Denied: c.denied.Load(),
		Overloaded: c.overloaded.Load(), CallHomeFailed: c.callHome.Load(), WriteFailed: c.write.Load(), Evicted: c.evicted.Load(),
	}
}

// Shutdown closes the port and waits until the running calls are answered. If ctx
// is done before, it ends them as Close does, and returns the error of ctx. It is
// idempotent.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.draining)
	}
	s.mu.Unlock()
	_ = s.accept.Close()
	s.unproven.close()
	s.proven.close()
	s.leaving.close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.running.Wait()
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.end(ErrClosed)
	<-done
	return err
}

// Close ends all calls, waits for their handlers, and closes the port. It is
// idempotent. Handlers must not call it, nor Shutdown.
func (s *Server) Close() error {
	s.end(ErrClosed)
	return s.Shutdown(context.Background())
}
