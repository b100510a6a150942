package natskv

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// refusalBound is generous: a refusal takes milliseconds, and its absence seconds.
const refusalBound = 5 * time.Second

func TestMissingPermissionsAreNamedAtOnce(t *testing.T) {
	t.Parallel()
	register := func(t *testing.T, s *Store) error {
		t.Helper()
		_, err := s.Register(t.Context(), endpointID(2), endpointValue(2, "a"), discovery.RegisterOptions{})
		return err
	}
	list := func(t *testing.T, s *Store) error {
		t.Helper()
		_, err := discovery.NewClient(s, discovery.Options{}).List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint})
		return err
	}
	for name, c := range map[string]struct {
		publish, subscribe string
		exists             bool // the bucket
		do                 func(*testing.T, *Store) error
		want               string
	}{
		"stream info":     {"$JS.API.STREAM.INFO.>", "", true, register, "$JS.API.STREAM.INFO.DYNPLANE_dynplane"},
		"stream creation": {"$JS.API.STREAM.CREATE.>", "", false, register, "$JS.API.STREAM.CREATE.DYNPLANE_dynplane"},
		"consumer":        {"$JS.API.CONSUMER.CREATE.>", "", true, list, "$JS.API.CONSUMER.CREATE.KV_dynplane"},
		"inbox of a list": {"", "_INBOX.>", true, list, "_INBOX."},
		"inbox":           {"", "_INBOX.>", true, register, "_INBOX."},
		"lease":           {"dynplane.lease.>", "", true, register, "dynplane.lease.dynplane.endpoints."},
		"entry":           {"dynplane.entry.>", "", true, register, "dynplane.entry.dynplane.endpoints."},
		"entry of others": {"$JS.API.STREAM.MSG.GET.>", "", true, func(t *testing.T, s *Store) error {
			t.Helper()
			_, err := s.Get(t.Context(), endpointID(1))
			return err
		}, "$JS.API.STREAM.MSG.GET.DYNPLANE_dynplane"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := natstest.Run(t, natstest.Denied("admin", "secret", "", ""), natstest.Denied("user", "secret", c.publish, c.subscribe))
			if c.exists {
				registerOne(t, openStore(t, connectAs(t, server, "admin"), Options{}))
			}
			s := newStore(t, connectAs(t, server, "user"), Options{})
			for range 2 {
				within(t, refusalBound, "the refusal", func() {
					err := c.do(t, s)
					if err == nil || !strings.Contains(err.Error(), "Permissions Violation") || !strings.Contains(err.Error(), c.want) {
						t.Errorf("got %v, want the server's words about %s", err, c.want)
					}
				})
			}
		})
	}
}

// A client may do without advisories: one that it is refused concerns no request.
func TestRefusedAdvisoriesEndNothing(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t, natstest.Denied("user", "secret", "", "$JS.EVENT.>"))
	nc := connectAs(t, server, "user")
	s := openStore(t, nc, Options{TTL: 2 * time.Second})
	client := discovery.NewClient(s, discovery.Options{})
	added := make(chan struct{})
	go func() {
		defer close(added)
		for ev, err := range client.Watch(t.Context(), discovery.Query{Kind: discovery.KindEndpoint}) {
			if err != nil {
				t.Errorf("watch: %v", err)
				return
			}
			if ev.Type == discovery.Added {
				return
			}
		}
	}()
	waittest.Eventually(t, "an advisory is refused", func() bool { return errors.Is(nc.LastError(), nats.ErrPermissionViolation) })
	l := registerOne(t, s)
	<-added
	k := &keeper{store: s, failing: errNoAck}
	if err := k.finalError(); err != nil {
		t.Errorf("heartbeats are final with %v", err)
	}
	if l.Ended() {
		t.Error("the lease has ended")
	}
}

// A refusal from a time when heartbeats were acknowledged does not end leases.
func TestFormerRefusalIsNotFinal(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t, natstest.Denied("user", "secret", "dynplane.lease.dynplane.>", ""))
	s := openStore(t, connectAs(t, server, "user"), Options{TTL: time.Hour})
	s.leases["held"] = &lease{}
	defer delete(s.leases, "held")
	refuse := func(key string) {
		before := s.nc.LastError()
		if err := s.nc.Publish(s.opt.leaseSubject(key), nil); err != nil {
			t.Fatal(err)
		}
		waittest.Eventually(t, "the server has refused it", func() bool { return s.nc.LastError() != before }) //nolint:errorlint // another one
	}
	refuse("held")
	k := &keeper{store: s}
	k.alive(time.Now())
	if err := k.finalError(); err != nil {
		t.Errorf("without a failure: %v", err)
	}
	k.fail(errNoAck)
	if err := k.finalError(); err != nil {
		t.Errorf("after a failure with another cause: %v", err)
	}
	refuse("another")
	if err := k.finalError(); err != nil {
		t.Errorf("after the refusal of another lease: %v", err)
	}
	refuse("held")
	if err := k.finalError(); !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("after another refusal: %v", err)
	}
}

// TestRefusalsOfOthersEndNoCall: calls of one connection wait for their answers while
// others are refused, of which the connection has only the last.
func TestRefusalsOfOthersEndNoCall(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t, natstest.Denied("user", "secret", "$JS.API.STREAM.CREATE.KV_dynplane", ""))
	s := newStore(t, connectAs(t, server, "user"), Options{})
	for subject, want := range map[string]bool{
		"$JS.API.STREAM.INFO.KV_dynplane": false, "$JS.API.STREAM.CREATE": true, "$JS.API.STREAM.CREATE.KV_dynplane": true,
		"$JS.API.STREAM.CREATE.KV_dyn": false, "$JS.API.STREAM.CREATE.KV_dynplane.x": false,
	} {
		err := s.request(t.Context(), func(ctx context.Context) error {
			requesting(ctx, subject)
			if err := s.nc.Publish("$JS.API.STREAM.CREATE.KV_dynplane", nil); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(silence):
				return errContended
			}
		})
		if got := errors.Is(err, nats.ErrPermissionViolation); got != want {
			t.Errorf("a request on %s ends with %v", subject, err)
		}
	}
}

func TestCustomInboxPrefix(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t, natstest.Denied("user", "secret", "", "_INBOX.>"))
	nc, err := nats.Connect(server.URL(), nats.UserInfo("user", "secret"), nats.ReconnectBufSize(-1), nats.CustomInboxPrefix("_MINE"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	s := openStore(t, nc, Options{TTL: 2 * time.Second})
	l := registerOne(t, s)
	registered := l.LastBeat()
	waittest.Eventually(t, "a heartbeat is acknowledged", func() bool { return l.LastBeat().After(registered) })
	found, err := discovery.NewClient(s, discovery.Options{}).List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint})
	if err != nil || len(found) != 1 {
		t.Errorf("%d are listed, %v", len(found), err)
	}
	w, err := s.Watch(t.Context(), discovery.Query{})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := w.(discovery.Confirmer).Present(t.Context(), []discovery.ID{endpointID(1), endpointID(2)})
	if err != nil || len(ids) != 1 || ids[0] != endpointID(1) {
		t.Errorf("present are %v, %v", ids, err)
	}
}

func TestServerWithoutJetStream(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t, func(o *natstest.Options) { o.JetStream = false })
	s := openStore(t, server.Connect(t), Options{})
	client := discovery.NewClient(s, discovery.Options{})
	check := func(what string, do func() error) {
		within(t, refusalBound, what, func() {
			if err := do(); err == nil || !strings.Contains(err.Error(), "JetStream") {
				t.Errorf("%s: %v, want an error that names JetStream", what, err)
			}
		})
	}
	check("register", func() error {
		_, err := s.Register(t.Context(), endpointID(1), endpointValue(1, "a"), discovery.RegisterOptions{})
		return err
	})
	check("list", func() error {
		_, err := client.List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint})
		return err
	})
	check("get", func() error {
		_, err := s.Get(t.Context(), endpointID(1))
		return err
	})
}

func TestStreamsWithLimitsAreRefusedByName(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	for name, limit := range map[string]func(*jetstream.StreamConfig){
		"MaxMsgs":    func(c *jetstream.StreamConfig) { c.MaxMsgs = 5 },
		"MaxMsgSize": func(c *jetstream.StreamConfig) { c.MaxMsgSize = 64 },
		"MaxBytes":   func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 },
	} {
		for _, write := range []bool{true, false} {
			bucket := name + "-read"
			if write {
				bucket = name + "-write"
			}
			t.Run(bucket, func(t *testing.T) {
				t.Parallel()
				s := openStore(t, server.Connect(t), Options{Bucket: bucket})
				streams := []jetstream.StreamConfig{s.opt.writeConfig(7), s.opt.readConfig(7)}
				if write {
					limit(&streams[0])
				} else {
					limit(&streams[1])
				}
				for _, config := range streams {
					if _, err := s.js.CreateStream(t.Context(), config); err != nil {
						t.Fatal(err)
					}
				}
				// Also one that waits for the check of another.
				errs := make(chan error, 8)
				for i := range uint64(cap(errs)) {
					go func() {
						_, err := s.Register(t.Context(), endpointID(i), endpointValue(i, "a"), discovery.RegisterOptions{})
						errs <- err
					}()
				}
				for range cap(errs) {
					if err := <-errs; !errors.Is(err, ErrBucket) || !strings.Contains(err.Error(), name) {
						t.Errorf("got %v, want one that names %s", err, name)
					}
				}
			})
		}
	}
}
