package natskv

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/natsconn"
)

// lossTTL is the TTL of tests in which leases end. They end within it, and the tests
// allow some more for a busy machine.
const (
	lossTTL  = 4 * time.Second
	lossRoom = 6 * time.Second
)

// endsWithin returns the cause of the end of a lease, which must be soon.
func endsWithin(t *testing.T, l discovery.Lease) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lossTTL+lossRoom)
	defer cancel()
	err := l.Wait(ctx)
	if ctx.Err() != nil {
		t.Fatalf("the lease has not ended within %v", lossTTL+lossRoom)
	}
	return err
}

// connectAs connects as one of the users of a server.
func connectAs(t *testing.T, server *natstest.Server, user string) *nats.Conn {
	t.Helper()
	nc, err := natsconn.Connect(t.Context(), natsconn.Config{URL: server.URL(), Username: user, Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// newStore is openStore without the Shutdown that must succeed.
func newStore(t *testing.T, nc *nats.Conn, o Options) *Store {
	t.Helper()
	s, err := New(nc, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
		nc.Close()
	})
	return s
}

func TestConnectionClosedForGoodEndsLeasesAndWatches(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	nc := server.Connect(t)
	s := newStore(t, nc, Options{TTL: lossTTL})
	l := registerOne(t, s)
	watched := make(chan error, 1)
	client := discovery.NewClient(s, discovery.Options{})
	synced := make(chan struct{})
	go func() {
		for ev, err := range client.Watch(t.Context(), discovery.Query{Kind: discovery.KindEndpoint}) {
			if err != nil {
				watched <- err
				return
			}
			if ev.Type == discovery.Synced {
				close(synced)
			}
		}
		watched <- nil
	}()
	<-synced
	nc.Close()
	if err := endsWithin(t, l); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("the lease has ended with %v", err)
	}
	select {
	case err := <-watched:
		if !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("the watch has ended with %v", err)
		}
	case <-time.After(waittest.Patience):
		t.Error("the watch has not ended")
	}
	if _, err := s.Register(t.Context(), endpointID(2), endpointValue(2, "a"), discovery.RegisterOptions{}); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("register: %v", err)
	}
	if err := l.Unregister(t.Context()); err == nil {
		t.Error("unregister has succeeded, and the entry is there")
	}
}

func TestRevokedPermissionEndsLeases(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t, natstest.Denied("owner", "secret", "", ""))
	s := newStore(t, connectAs(t, server, "owner"), Options{TTL: lossTTL})
	l := registerOne(t, s)
	server.Stop()
	server.Start(natstest.Denied("owner", "secret", "dynplane.lease.>", ""))
	err := endsWithin(t, l)
	if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), s.opt.leaseSubject(l.key)) {
		t.Errorf("the lease has ended with %v", err)
	}
	// It may still remove the entry, if that has not expired.
	if err := l.Unregister(t.Context()); err != nil {
		t.Errorf("unregister: %v", err)
	}
	if _, there := present(t, s, l); there {
		t.Error("the entry is there after Unregister")
	}
}

func TestUnfitWriteStreamEndsLeases(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	s := newStore(t, server.Connect(t), Options{TTL: lossTTL})
	l := registerOne(t, s)
	unfit := s.opt.writeConfig(1)
	unfit.AllowMsgSchedules = false
	waittest.Eventually(t, "the stream is replaced before the store creates it again", func() bool {
		if err := s.js.DeleteStream(t.Context(), unfit.Name); err != nil {
			t.Fatal(err)
		}
		_, err := s.js.CreateStream(t.Context(), unfit)
		return err == nil
	})
	err := endsWithin(t, l)
	if !errors.Is(err, ErrBucket) || !strings.Contains(err.Error(), "AllowMsgSchedules") {
		t.Errorf("the lease has ended with %v", err)
	}
}

func TestHealthFollowsTheServer(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	s := openStore(t, server.Connect(t), Options{TTL: 2 * time.Second})
	l := registerOne(t, s)
	h, changed := l.Health()
	if !h.Healthy {
		t.Fatalf("after Register: %+v", h)
	}
	await := func(healthy bool) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(waittest.Patience):
			t.Fatalf("the channel is not closed, and the lease is %+v", h)
		}
		if h, changed = l.Health(); h.Healthy != healthy || (h.Err == nil) != healthy {
			t.Fatalf("got %+v, want healthy: %v", h, healthy)
		}
	}
	server.Stop()
	await(false)
	server.Start()
	await(true)
	if _, there := present(t, s, l); !there {
		t.Error("healthy, and there is no entry")
	}
	if err := l.Unregister(t.Context()); err != nil {
		t.Error(err)
	}
	await(false)
}
