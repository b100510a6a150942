package requestplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// serve reads the requests of a connection and acknowledges them in their order.
// The end of the connection does not end their calls.
func (s *Server) serve(raw net.Conn, leave func()) {
	defer func() { leave() }()
	conn, err := accepted(s.life, raw, s.options.TLS)
	if err != nil {
		s.stats.invalid.Add(1)
		s.options.Logger.Debug("requestplane: TLS handshake failed", "peer", raw.RemoteAddr(), "error", err)
		_ = raw.Close()
		return
	}
	c := newStream(s.life, conn, 0)
	defer func() { _ = c.Close() }()
	from := remote(raw)
	for r := newReader(c); ; {
		c.idle.Store(0)
		if _, err := r.Peek(1); err != nil {
			return
		}
		c.idle.Store(int64(s.options.IdleTimeout))
		a := &answer{server: s, request: Request{From: from}}
		raw, err := readRequest(r, s.options.MaxRequest, a.reserve)
		if err != nil {
			a.release()
			s.reject(c, from, err)
			return
		}
		if refusal := a.accept(raw); refusal != "" {
			a.release()
			if _, err := c.Write(ack(refusal)); err != nil {
				return
			}
			continue
		}
		leave()
		leave = s.proven.add(from.Addr(), func() { _ = abort(conn) }) // the last one to send a request is the newest
		_, err = c.Write(ack(""))
		s.running.Go(a.run)
		if err != nil {
			return
		}
	}
}

// reject counts a request that could not be read, and sends the reason, which
// Dynamo's servers send too.
func (s *Server) reject(c *stream, from netip.AddrPort, err error) {
	var reason string
	switch {
	case errors.Is(err, ErrTooLarge):
		s.stats.tooLarge.Add(1)
		reason = "Read error: " + err.Error()
	case errors.Is(err, errOverloaded):
		s.stats.overloaded.Add(1)
		reason = errOverloaded.Error()
	default:
		s.stats.invalid.Add(1)
		if errors.Is(err, ErrFormat) {
			reason = "Invalid endpoint path"
		}
	}
	s.options.Logger.Debug("requestplane: request is invalid", "peer", from, "error", err)
	if reason == "" {
		return
	}
	if _, err := c.Write(ack(reason)); err != nil {
		return
	}
	// A close with bytes that are not read yet is a reset, by which the peer could
	// lose the reason. Some of them are read; most peers stop at once.
	c.finish()
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.CopyN(io.Discard, c.Conn, s.options.MaxRequest)
}

var errOverloaded = errors.New("Server overloaded: worker at capacity") // Dynamo's text

// reserve counts bytes of the request against the memory for all requests.
func (a *answer) reserve(n int) error {
	if a.server.memory.Add(int64(n)) > memoryFactor*a.server.options.MaxRequest {
		a.server.memory.Add(int64(-n))
		return errOverloaded
	}
	a.reserved += int64(n)
	return nil
}

func (a *answer) release() {
	a.server.memory.Add(-a.reserved)
	a.reserved = 0
}

// accept decides whether a request is answered. Otherwise it returns the text of
// the refusal. Dynamo's clients take texts for success unless they begin with
// "Server unavailable:" or "Server overloaded:". Those are for requests that
// another server might answer.
func (a *answer) accept(raw rawRequest) (refusal string) {
	s := a.server
	refuse := func(counter *atomic.Uint64, text string) string {
		counter.Add(1)
		s.options.Logger.Debug("requestplane: request refused", "peer", a.request.From, "reason", excerpt(text))
		return text
	}
	if a.handler = s.handler(raw.path); a.handler == nil {
		return refuse(&s.stats.unknown, "Server unavailable: unknown endpoint "+raw.path)
	}
	f, err := splitFrame(raw.payload)
	if err == nil && len(f.data) == 0 {
		err = invalid("no data: want one value in the codec of the request")
	}
	var t ticket
	if err == nil {
		t, err = decodeControl(f.header)
	}
	if err != nil {
		return refuse(&s.stats.invalid, "Invalid request: "+err.Error())
	}
	if allow := s.options.AllowCallHome; allow != nil && !allow(a.request.From, t.home) {
		return refuse(&s.stats.denied, fmt.Sprintf("Server unavailable: it may not connect to %s", t.home))
	}
	select {
	case <-s.draining:
		return refuse(&s.stats.overloaded, "Server unavailable: shutting down")
	default:
	}
	if s.waiting.Load() >= s.maxWaiting() {
		return refuse(&s.stats.overloaded, errOverloaded.Error())
	}
	s.stats.requests.Add(1)
	a.ticket = t
	a.request = Request{Path: raw.path, Codec: t.codec, Payload: f.data, ID: t.id, Headers: raw.headers, Metadata: t.metadata, From: a.request.From}
	return ""
}

func (s *Server) maxWaiting() int64 { return int64((1 + queueFactor) * s.options.MaxHandlers) }

// callHome connects to the client. A connect that takes longer than maxDials newer
// ones is given up.
func (s *Server) callHome(ctx context.Context, from netip.AddrPort, t ticket) (*stream, error) {
	dialing, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.dials.add(from.Addr(), cancel)()
	conn, err := dial(dialing, t.home, s.options.TLS, s.options.ConnectTimeout)
	if err != nil {
		return nil, err
	}
	return newStream(ctx, conn, s.options.IdleTimeout), nil
}
