// Package natstest runs real NATS servers with JetStream inside a test, on
// 127.0.0.1 and ports of their own. They can be stopped, started again with or
// without their store, and joined to a cluster.
//
// It is the only package whose tests embed a server: other tests configure
// theirs with an Option.
package natstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/natsconn"
)

// Server is a NATS server that belongs to a test and ends with it.
type Server struct {
	t   testing.TB
	dir string
	opt *server.Options
	srv *server.Server
}

// Run starts a server with JetStream on a store of its own.
func Run(t testing.TB, with ...Option) *Server {
	t.Helper()
	s := &Server{t: t, dir: t.TempDir(), opt: &server.Options{JetStream: true, Port: server.RANDOM_PORT}}
	s.Start(with...)
	t.Cleanup(s.Stop)
	return s
}

// Start starts a stopped server on its old address and store, with further
// options if there are any, and waits until it accepts connections.
func (s *Server) Start(with ...Option) {
	s.t.Helper()
	for _, set := range with {
		set(s.opt)
	}
	srv, err := start(s.opt, s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	s.srv, s.opt.Port = srv, srv.Addr().(*net.TCPAddr).Port
}

// start runs a server on this host, out of the way of the test's process, and
// waits until it accepts connections.
func start(opt *server.Options, dir string) (*server.Server, error) {
	opt.Host, opt.StoreDir, opt.NoSigs, opt.NoLog = "127.0.0.1", dir, true, true
	srv, err := server.NewServer(opt.Clone())
	if err != nil {
		return nil, fmt.Errorf("natstest: %w", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(waittest.Patience) {
		srv.Shutdown()
		return nil, fmt.Errorf("natstest: the server is not ready within %v", waittest.Patience)
	}
	return srv, nil
}

// ForExample starts a server with JetStream for an example, which has no
// testing.TB. It returns the URL of the server and a function that stops it and
// removes its store.
func ForExample() (url string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "natstest")
	if err != nil {
		return "", nil, fmt.Errorf("natstest: %w", err)
	}
	srv, err := start(&server.Options{JetStream: true, Port: server.RANDOM_PORT}, dir)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return srv.ClientURL(), func() {
		srv.Shutdown()
		srv.WaitForShutdown()
		_ = os.RemoveAll(dir)
	}, nil
}

// Stop ends the server and waits for it. It is idempotent.
func (s *Server) Stop() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}

// InMsgs returns how many messages the server has received from clients.
func (s *Server) InMsgs() int64 {
	s.t.Helper()
	vars, err := s.srv.Varz(nil)
	if err != nil {
		s.t.Fatalf("natstest: %v", err)
	}
	return vars.InMsgs
}

// Wipe removes the store of a stopped server.
func (s *Server) Wipe() {
	s.t.Helper()
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Fatalf("natstest: %v", err)
	}
}

// URL is the address for clients.
func (s *Server) URL() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.opt.Port) }

// Server is the embedded server itself.
func (s *Server) Server() *server.Server { return s.srv }

// Connect dials the server as dynplane does; the test closes the connection.
func (s *Server) Connect(t testing.TB) *nats.Conn {
	t.Helper()
	return Connect(t, s.URL())
}

// Connect dials servers as dynplane does; the test closes the connection.
func Connect(t testing.TB, url string) *nats.Conn {
	t.Helper()
	nc, err := natsconn.Connect(t.Context(), natsconn.Config{URL: url})
	if err != nil {
		t.Fatalf("natstest: %v", err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Cluster starts n servers that form one JetStream cluster, and waits until it
// has a leader.
func Cluster(t testing.TB, n int) []*Server {
	t.Helper()
	var routes []*url.URL
	ports := make([]int, n)
	for i := range ports {
		ports[i] = FreePort(t)
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", ports[i])})
	}
	servers := make([]*Server, n)
	for i := range servers {
		servers[i] = Run(t, func(o *server.Options) {
			o.ServerName, o.Routes = fmt.Sprintf("node%d", i), routes
			o.Cluster.Name, o.Cluster.Host, o.Cluster.Port = "natstest", "127.0.0.1", ports[i]
		})
	}
	waittest.Eventually(t, "the cluster has a leader", func() bool {
		for _, s := range servers {
			if s.srv.JetStreamIsLeader() {
				return len(s.srv.JetStreamClusterPeers()) == n
			}
		}
		return false
	})
	return servers
}

// URLs lists the servers as one connection URL.
func URLs(servers []*Server) string {
	urls := make([]string, len(servers))
	for i, s := range servers {
		urls[i] = s.URL()
	}
	return strings.Join(urls, ",")
}

// Leader returns the server that leads a stream, or nil.
func Leader(servers []*Server, stream string) *Server {
	for _, s := range servers {
		if s.srv.JetStreamIsStreamLeader("$G", stream) {
			return s
		}
	}
	return nil
}

// KV opens a bucket with a plain JetStream client, as soon as the bucket exists.
func KV(t testing.TB, nc *nats.Conn, bucket string) jetstream.KeyValue {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatalf("natstest: %v", err)
	}
	var kv jetstream.KeyValue
	waittest.Eventually(t, "the bucket exists", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		kv, err = js.KeyValue(ctx, bucket)
		return err == nil
	})
	return kv
}

// FreePort returns a port on 127.0.0.1 without a listener.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("natstest: %v", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}
