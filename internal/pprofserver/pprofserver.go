// Package pprofserver serves the profiles of net/http/pprof on an address of
// their own, for the --pprof flag of long-running programs.
package pprofserver

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// Server serves profiles until Close.
type Server struct {
	http     http.Server
	listener net.Listener
	served   chan error
}

// Start listens on addr, HOST:PORT, and serves profiles under /debug/pprof/.
// Port 0 selects a free port; Addr returns it. An empty host means 127.0.0.1:
// profiles expose the internals of a program, so serving them beyond this machine
// requires an explicit address.
func Start(addr string) (*Server, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("pprof: address %q: want HOST:PORT, such as 127.0.0.1:6060: %w", addr, err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("pprof: %w", err)
	}
	s := &Server{
		http:     http.Server{Handler: handler(), ReadHeaderTimeout: 10 * time.Second},
		listener: listener,
		served:   make(chan error, 1),
	}
	go func() { s.served <- s.http.Serve(listener) }()
	return s, nil
}

// Addr returns the address that the server listens on.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close ends the server and the profiles in progress. It returns when
// the server's goroutine has ended, with the error that ended it before Close
// if there was one. Close must be called once.
func (s *Server) Close() error {
	err := s.http.Close()
	if served := <-s.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(fmt.Errorf("pprof: %w", served), err)
	}
	return err
}

// handler routes as net/http/pprof does on the default mux, which this package
// does not serve: other packages may register handlers there.
func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
