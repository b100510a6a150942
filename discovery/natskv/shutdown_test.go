package natskv

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/latencyproxy"
	"github.com/dynplane/dynplane/internal/waittest"
)

// within fails the test if do takes longer than a bound, which is generous.
func within(t *testing.T, bound time.Duration, what string, do func()) {
	t.Helper()
	begun := time.Now()
	do()
	if d := time.Since(begun); d > bound {
		t.Errorf("%s took %v, want at most %v", what, d, bound)
	}
}

func TestUnregisterAndShutdownContinueAfterAFailure(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	s := openStore(t, server.Connect(t), Options{TTL: time.Minute})
	l := registerOne(t, s)
	registerMany(t, s, 100, 20)
	server.Stop()
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	for range 2 {
		if err := l.Unregister(short()); err == nil {
			t.Error("unregister has succeeded without a server")
		}
	}
	for range 2 {
		if err := s.Shutdown(short()); err == nil {
			t.Error("shutdown has succeeded without a server")
		}
	}
	server.Start()
	reader := openStore(t, server.Connect(t), Options{})
	if owner, there := present(t, reader, l); !there {
		t.Fatalf("the entry is gone: %q", owner)
	}
	if err := l.Unregister(t.Context()); err != nil {
		t.Errorf("unregister: %v", err)
	}
	if _, there := present(t, reader, l); there {
		t.Error("the entry is there after Unregister")
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	found, err := discovery.NewClient(reader, discovery.Options{}).List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint})
	if err != nil || len(found) != 0 {
		t.Errorf("%d entries are there after Shutdown, %v", len(found), err)
	}
}

func TestConcurrentShutdownWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	const n = 300
	server := natstest.Run(t)
	s := openStore(t, connectAcross(t, server, 50*time.Millisecond), Options{TTL: time.Minute})
	leases := registerMany(t, s, 0, n)
	reader := openStore(t, server.Connect(t), Options{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := s.Shutdown(t.Context()); err != nil {
				t.Errorf("shutdown: %v", err)
				return
			}
			for _, l := range leases {
				if found, err := reader.readEntry(t.Context(), l.key); err != nil || found.living() {
					t.Errorf("%s is there after Shutdown, %v", l.key, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// startStall starts a proxy that can stall, and connects through it without the
// pings by which a silent server would be noticed.
func startStall(t *testing.T, server *natstest.Server) (*latencyproxy.Proxy, *nats.Conn) {
	t.Helper()
	proxy, err := latencyproxy.Start(strings.TrimPrefix(server.URL(), "nats://"), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	nc, err := nats.Connect("nats://"+proxy.Addr(), nats.ReconnectBufSize(-1), nats.PingInterval(time.Hour), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return proxy, nc
}

func TestShutdownEndsCallsThatWait(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	registerOne(t, openStore(t, server.Connect(t), Options{}))
	for _, opened := range []bool{false, true} {
		proxy, nc := startStall(t, server)
		s := openStore(t, nc, Options{})
		if opened {
			if err := s.open(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		proxy.Stall()
		client := discovery.NewClient(s, discovery.Options{})
		calls := map[string]func() error{
			"list": func() error {
				_, err := client.List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint})
				return err
			},
			"get": func() error {
				_, err := s.Get(t.Context(), endpointID(1))
				return err
			},
			"register": func() error {
				_, err := s.Register(t.Context(), endpointID(2), endpointValue(2, "a"), discovery.RegisterOptions{})
				return err
			},
			"canceled register": func() error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := s.Register(ctx, endpointID(3), endpointValue(3, "a"), discovery.RegisterOptions{})
				if errors.Is(err, context.DeadlineExceeded) {
					return discovery.ErrClosed
				}
				return err
			},
		}
		var wg sync.WaitGroup
		var closed time.Time
		for name, call := range calls {
			wg.Go(func() {
				if err := call(); !errors.Is(err, discovery.ErrClosed) {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		<-time.After(1100 * time.Millisecond) // all of them wait
		closed = time.Now()
		within(t, 3*time.Second, "shutdown without leases", func() {
			if err := client.Shutdown(t.Context()); err != nil {
				t.Errorf("shutdown: %v", err)
			}
		})
		wg.Wait()
		if d := time.Since(closed); d > 3*time.Second {
			t.Errorf("calls have ended %v after Shutdown", d)
		}
	}
}

func TestShutdownIsBounded(t *testing.T) {
	t.Parallel()
	const ttl = 4 * time.Second
	server := natstest.Run(t)
	for name, c := range map[string]struct {
		bound time.Duration
		leave bool
	}{
		"by the TTL": {waittest.Patience, true},
		"by ctx":     {500 * time.Millisecond, true},
		"no leases":  {waittest.Patience, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy, nc := startStall(t, server)
			s := newStore(t, nc, Options{Bucket: strings.ReplaceAll(name, " ", "-"), TTL: ttl})
			leases := registerMany(t, s, 1, 20)
			if !c.leave {
				for _, l := range leases {
					if err := l.Unregister(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			proxy.Stall()
			ctx, cancel := context.WithTimeout(t.Context(), c.bound)
			defer cancel()
			bound := min(c.bound, ttl)
			if !c.leave {
				bound = 0
			}
			within(t, bound+3*time.Second, "shutdown", func() {
				if err := s.Shutdown(ctx); (err != nil) != c.leave {
					t.Errorf("shutdown: %v", err)
				}
			})
		})
	}
}

func TestShutdownLeavesTheConnectionAsItWas(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	nc := server.Connect(t)
	if _, err := nc.RequestWithContext(t.Context(), "$JS.API.INFO", nil); err != nil { // the subscription of all answers
		t.Fatal(err)
	}
	before := nc.NumSubscriptions()
	s, err := New(nc, Options{})
	if err != nil {
		t.Fatal(err)
	}
	client := discovery.NewClient(s, discovery.Options{})
	var wg sync.WaitGroup
	watching := make(chan struct{}, 2)
	watch := func() {
		for ev, err := range client.Watch(t.Context(), discovery.Query{Kind: discovery.KindEndpoint}) {
			if err == nil && ev.Type == discovery.Synced {
				watching <- struct{}{}
			}
		}
	}
	wg.Go(watch)
	<-watching // without a bucket
	l := registerOne(t, s)
	wg.Go(watch)
	<-watching
	waittest.Eventually(t, "a heartbeat was acknowledged", func() bool {
		s.keeper.wakeUp()
		return nc.NumSubscriptions() > before+2
	})
	if _, err := client.List(t.Context(), discovery.Query{}); err != nil {
		t.Error(err)
	}
	if err := client.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if !l.Ended() {
		t.Error("the lease has not ended")
	}
	if n := nc.NumSubscriptions(); n != before {
		t.Errorf("%d subscriptions are left, there were %d", n, before)
	}
	if nc.IsClosed() {
		t.Error("the connection is closed")
	}
}
