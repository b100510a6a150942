// Package natstest runs real NATS servers with JetStream inside a test, on
// 127.0.0.1 and ports of their own. They can be stopped, started again with or
// without their store, and joined to a cluster.
package natstest

import (
	"context"
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

	"github.com/dynplane/dynplane/natsconn"
)

// Patience bounds every wait for something that must happen.
const Patience = 60 * time.Second

// Server is a NATS server that belongs to a test, which ends it.
type Server struct {
	t   testing.TB
	opt *server.Options
	srv *server.Server
}

// Run starts a server with JetStream on a store of its own.
func Run(t testing.TB) *Server {
	t.Helper()
	return run(t, &server.Options{})
}

func run(t testing.TB, opt *server.Options) *Server {
	t.Helper()
	opt.Host, opt.NoSigs, opt.NoLog = "127.0.0.1", true, true
	opt.JetStream, opt.StoreDir = true, t.TempDir()
	opt.Port = FreePort(t)
	s := &Server{t: t, opt: opt}
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

// Start starts a stopped server on its old address and store, and waits until
// it takes connections.
func (s *Server) Start() {
	s.t.Helper()
	srv, err := server.NewServer(s.opt.Clone())
	if err != nil {
		s.t.Fatalf("natstest: %v", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(Patience) {
		s.t.Fatal("natstest: the server does not become ready")
	}
	s.srv = srv
}

// Stop ends the server and waits for it. It is idempotent.
func (s *Server) Stop() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}

// Wipe removes the store of a stopped server.
func (s *Server) Wipe() {
	s.t.Helper()
	if err := os.RemoveAll(s.opt.StoreDir); err != nil {
		s.t.Fatalf("natstest: %v", err)
	}
}

// URL is where clients connect.
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
		opt := &server.Options{
			ServerName: fmt.Sprintf("node%d", i),
			Routes:     routes,
		}
		opt.Cluster.Name, opt.Cluster.Host, opt.Cluster.Port = "natstest", "127.0.0.1", ports[i]
		servers[i] = run(t, opt)
	}
	Eventually(t, "the cluster has a leader", func() bool {
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

// KV opens a bucket as a foreign client would, once it is there.
func KV(t testing.TB, nc *nats.Conn, bucket string) jetstream.KeyValue {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatalf("natstest: %v", err)
	}
	var kv jetstream.KeyValue
	Eventually(t, "the bucket is there", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		kv, err = js.KeyValue(ctx, bucket)
		return err == nil
	})
	return kv
}

// FreePort returns a port on 127.0.0.1 that nobody listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("natstest: %v", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// Eventually waits until ok returns true.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", Patience, what)
		}
		<-time.After(10 * time.Millisecond)
	}
}
