package natskv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

func endpointID(instance uint64) discovery.ID {
	return discovery.ID{
		Kind: discovery.KindEndpoint, Instance: instance,
		Scope: discovery.Scope{Namespace: "ns", Component: "comp", Endpoint: "ep"},
	}
}

func endpointValue(instance uint64, address string) []byte {
	value, _ := json.Marshal(discovery.Instance{
		InstanceID: instance,
		Spec:       discovery.Endpoint{Scope: endpointID(instance).Scope, Transport: discovery.TCP(address)},
	})
	return value
}

func openStore(tb testing.TB, nc *nats.Conn, o Options) *Store {
	tb.Helper()
	s, err := New(nc, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			tb.Errorf("shutdown: %v", err)
		}
	})
	return s
}

// registerOne registers instance 1. The TTL of s should be so long that the
// keep-alive sends no heartbeat during the test.
func registerOne(t *testing.T, s *Store) *lease {
	t.Helper()
	l, err := s.Register(t.Context(), endpointID(1), endpointValue(1, "a"), discovery.RegisterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return l.(*lease)
}

func present(t *testing.T, s *Store, l *lease) (owner string, there bool) {
	t.Helper()
	found, err := s.readEntry(t.Context(), l.key)
	if err != nil {
		t.Fatal(err)
	}
	return found.owner(), found.living()
}

// writeEntry writes the entry of a key as a client without a lease would.
func writeEntry(t *testing.T, s *Store, key, operation, value string) {
	t.Helper()
	m := nats.NewMsg(s.opt.entrySubject(key))
	m.Data = []byte(value)
	if operation != "" {
		m.Header.Set(hdrOperation, operation)
	}
	if _, err := s.js.PublishMsg(t.Context(), m); err != nil {
		t.Error(err)
	}
}

func TestRecover(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	for _, c := range []struct {
		name  string
		fault func(*testing.T, *Store, *lease)
		again bool // it has to be written again
		ended error
		there bool // in the end
	}{
		{"nothing is wrong", func(*testing.T, *Store, *lease) {}, false, nil, true},
		{"an acknowledgement was lost", func(t *testing.T, _ *Store, l *lease) {
			t.Helper()
			if _, err := l.write(t.Context(), t.Context(), nil, l.store.opt.TTL); err != nil {
				t.Error(err)
			}
		}, false, nil, true},
		{"purged", func(t *testing.T, s *Store, l *lease) {
			t.Helper()
			writeEntry(t, s, l.key, "PURGE", "")
		}, true, nil, true},
		{"deleted", func(t *testing.T, s *Store, l *lease) {
			t.Helper()
			writeEntry(t, s, l.key, "DEL", "")
		}, true, nil, true},
		{"overwritten by another client", func(t *testing.T, s *Store, l *lease) {
			t.Helper()
			writeEntry(t, s, l.key, "", "junk")
		}, true, nil, true},
		{"overwritten by a message with an unknown operation", func(t *testing.T, s *Store, l *lease) {
			t.Helper()
			writeEntry(t, s, l.key, "PUT", "")
		}, true, nil, true},
		{"the bucket was deleted", func(t *testing.T, s *Store, _ *lease) {
			t.Helper()
			for _, stream := range []string{s.opt.readStream(), s.opt.writeStream()} {
				if err := s.js.DeleteStream(t.Context(), stream); err != nil {
					t.Error(err)
				}
			}
			if err := s.ensure(t.Context()); err != nil {
				t.Error(err)
			}
		}, true, nil, true},
		{"taken over by another owner", func(t *testing.T, s *Store, _ *lease) {
			t.Helper()
			registerOne(t, openStore(t, s.nc, s.opt))
		}, false, discovery.ErrTakenOver, true},
		{"registered again by the same client", func(t *testing.T, s *Store, _ *lease) {
			t.Helper()
			registerOne(t, s)
		}, false, discovery.ErrTakenOver, true},
		{"unregistered", func(t *testing.T, _ *Store, l *lease) {
			t.Helper()
			if err := l.Unregister(t.Context()); err != nil {
				t.Error(err)
			}
		}, false, discovery.ErrClosed, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bucket := strings.ReplaceAll(c.name, " ", "-")
			s := openStore(t, server.Connect(t), Options{Bucket: bucket, TTL: time.Hour, Memory: true})
			l := registerOne(t, s)
			c.fault(t, s, l)
			again, err := l.recover(t.Context())
			if err != nil || again != c.again {
				t.Fatalf("written again: %v, %v; want %v", again, err, c.again)
			}
			if owner, there := present(t, s, l); there != c.there || there && (owner == l.owner) != (c.ended == nil) {
				t.Errorf("the entry is there: %v, and ours: %v", there, owner == l.owner)
			}
			if l.Ended() != (c.ended != nil) {
				t.Errorf("the lease has ended: %v", l.Ended())
			}
			if c.ended != nil {
				if err := l.Wait(t.Context()); !errors.Is(err, c.ended) {
					t.Errorf("the lease has ended with %v, want %v", err, c.ended)
				}
			}
			if c.ended != nil {
				return
			}
			if err := beat(t, s, l); err != nil {
				t.Errorf("the next heartbeat: %v", err)
			}
			l.setSequence(1, l.value) // as if the acknowledgement of the last write had been lost
			if err := l.Unregister(t.Context()); err != nil {
				t.Error(err)
			}
			if _, there := present(t, s, l); there {
				t.Error("the entry is there after it was given back")
			}
		})
	}
}

// beat sends a heartbeat and returns the error of its acknowledgement.
func beat(t *testing.T, s *Store, l *lease) error {
	t.Helper()
	h, err := newHeartbeats(s)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if err := h.send(l, l.sequence(), time.Now()); err != nil {
		t.Fatal(err)
	}
	var acked []*heartbeat
	waittest.Eventually(t, "the heartbeat is acknowledged", func() bool {
		acked, _ = h.collect(time.Time{}, time.Time{})
		return len(acked) == 1
	})
	return acked[0].err
}

// A server can fail to acknowledge heartbeats for a long time. They must not
// accumulate.
func TestUnansweredHeartbeatsAreForgotten(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	s := openStore(t, server.Connect(t), Options{TTL: time.Hour})
	l := registerOne(t, s)
	h, err := newHeartbeats(s)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	silent := h.inbox + "silent." // no subscription of h receives the answers
	subscribed := h.inbox
	h.inbox = silent
	for range 10 {
		if err := h.send(l, l.sequence(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	h.inbox = subscribed
	if acked, unanswered := h.collect(time.Now().Add(-time.Hour), time.Time{}); len(acked)+len(unanswered) != 0 || h.pending() != 10 {
		t.Errorf("%d acknowledged, %d unanswered too early, %d pending", len(acked), len(unanswered), h.pending())
	}
	if _, unanswered := h.collect(time.Now(), time.Time{}); len(unanswered) != 10 || h.pending() != 0 {
		t.Errorf("%d unanswered, %d pending", len(unanswered), h.pending())
	}
	// A late acknowledgement counts, until the lease has expired.
	for subject := range h.flight {
		h.acknowledged(&nats.Msg{Subject: subject, Data: []byte(`{"stream":"s","seq":1}`)})
		break
	}
	if acked, unanswered := h.collect(time.Now(), time.Now()); len(acked) != 1 || !acked[0].late || len(unanswered) != 0 {
		t.Errorf("%d acknowledged late, %d unanswered again", len(acked), len(unanswered))
	}
	if len(h.flight) != 0 || h.late != 0 {
		t.Errorf("%d heartbeats are kept, %d of them late", len(h.flight), h.late)
	}
}

func TestRegisterAtTheTimeOfShutdown(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	reader := discovery.NewClient(openStore(t, server.Connect(t), Options{}), discovery.Options{})
	for range 5 {
		s := openStore(t, server.Connect(t), Options{TTL: time.Hour})
		var registered atomic.Int64
		var wg sync.WaitGroup
		for worker := range uint64(8) {
			wg.Go(func() {
				for n := uint64(0); ; n++ {
					if _, err := s.Register(t.Context(), endpointID(worker<<32+n), endpointValue(worker<<32+n, "a"), discovery.RegisterOptions{}); err != nil {
						if !errors.Is(err, discovery.ErrClosed) {
							t.Errorf("register: %v", err)
						}
						return
					}
					registered.Add(1)
				}
			})
		}
		waittest.Eventually(t, "some are registered", func() bool { return registered.Load() > 50 })
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
		left, err := reader.List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint})
		if err != nil || len(left) != 0 {
			t.Fatalf("%d registrations are left, %v", len(left), err)
		}
	}
}

// The clock of a machine that was suspended is behind.
func TestClockThatIsSetBack(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	var back atomic.Int64
	now := func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
	s := openStore(t, server.Connect(t), Options{TTL: 2 * time.Second, Now: now})
	reader := discovery.NewClient(openStore(t, server.Connect(t), Options{}), discovery.Options{})
	l := registerOne(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	for ev, err := range reader.Watch(ctx, discovery.Query{Kind: discovery.KindEndpoint}) {
		if err == nil && ev.Type == discovery.Synced {
			back.Store(int64(5 * time.Minute))
		}
		if err == nil && ev.Type == discovery.Removed {
			t.Error("a living owner was removed")
		}
	}
	if _, there := present(t, s, l); !there {
		t.Error("the entry is gone")
	}
}

func TestServerClock(t *testing.T) {
	t.Parallel()
	t0 := time.Now()
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	clock := serverClock{now: func() time.Time { return t0.Add(ms(5000)) }}
	// The server is an hour ahead, and half of the round trip is each way.
	first, off := clock.set(t0.Add(time.Hour+ms(100)), t0, t0.Add(ms(200)))
	if !first || off != time.Hour {
		t.Errorf("first %v, offset %v", first, off)
	}
	if got := clock.serverNow().Sub(t0); got != time.Hour+ms(5000) {
		t.Errorf("the server's time is %v from the beginning", got)
	}
	// The stamp of a slow answer is less accurate than an old one.
	if first, _ = clock.set(t0, t0.Add(ms(1000)), t0.Add(ms(3000))); first {
		t.Error("it is the first again")
	}
	if got := clock.serverNow().Sub(t0); got != time.Hour+ms(5000) {
		t.Errorf("after a slow answer the server's time is %v from the beginning", got)
	}
	// A later fast answer replaces the first.
	clock.set(t0.Add(2*time.Hour), t0.Add(ms(4000)), t0.Add(ms(4000)))
	if got := clock.serverNow().Sub(t0); got != 2*time.Hour+ms(1000) {
		t.Errorf("after a later answer the server's time is %v from the beginning", got)
	}
	// Time advances by the monotonic clock, which a step of the wall clock does
	// not affect. The string of a Time shows whether it has a monotonic reading.
	clock.set(time.Unix(0, 0), t0, t0)
	if !strings.Contains(clock.local.String(), " m=") {
		t.Error("the clock has lost the monotonic reading")
	}
}

func TestStreamsThatCannotHoldLeases(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	s := openStore(t, server.Connect(t), Options{})
	if err := errors.Join(s.checkWriteStream(s.opt.writeConfig(7)), s.checkReadStream(s.opt.readConfig(7))); err != nil {
		t.Errorf("our own: %v", err)
	}
	type change = func(*jetstream.StreamConfig)
	both := map[string]change{
		"AllowMsgTTL":       func(c *jetstream.StreamConfig) { c.AllowMsgTTL = false },
		"AllowDirect":       func(c *jetstream.StreamConfig) { c.AllowDirect = false },
		"MaxMsgsPerSubject": func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 },
		"MaxMsgs":           func(c *jetstream.StreamConfig) { c.MaxMsgs = 5 },
		"MaxBytes":          func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 },
		"MaxAge":            func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"MaxMsgSize":        func(c *jetstream.StreamConfig) { c.MaxMsgSize = 100 },
		"sealed":            func(c *jetstream.StreamConfig) { c.Sealed = true },
		"NoAck":             func(c *jetstream.StreamConfig) { c.NoAck = true },
		"retention":         func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy },
		"mirror":            func(c *jetstream.StreamConfig) { c.Mirror = &jetstream.StreamSource{Name: "X"} },
	}
	write := map[string]change{
		"AllowMsgSchedules":                func(c *jetstream.StreamConfig) { c.AllowMsgSchedules = false },
		"AllowRollup":                      func(c *jetstream.StreamConfig) { c.AllowRollup = false },
		"SubjectTransform":                 func(c *jetstream.StreamConfig) { c.SubjectTransform = &jetstream.SubjectTransformConfig{} },
		"subject dynplane.lease.dynplane.": func(c *jetstream.StreamConfig) { c.Subjects = c.Subjects[:1] },
	}
	read := map[string]change{
		"source DYNPLANE_dynplane": func(c *jetstream.StreamConfig) { c.Sources = nil },
		"source DYNPLANE_dynplane ": func(c *jetstream.StreamConfig) {
			c.Sources = []*jetstream.StreamSource{{Name: c.Sources[0].Name}}
		},
	}
	maps.Copy(write, both)
	maps.Copy(read, both)
	check := func(changes map[string]change, config jetstream.StreamConfig, of func(jetstream.StreamConfig) error) {
		for what, change := range changes {
			c := config
			change(&c)
			err := of(c)
			if !errors.Is(err, ErrBucket) {
				t.Errorf("%s: got %v, want ErrBucket", what, err)
				continue
			}
			for _, part := range []string{strings.TrimSpace(what), s.nc.ConnectedServerVersion(), `"dynplane"`, c.Name} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s: %v does not name %q", what, err, part)
				}
			}
		}
	}
	check(write, s.opt.writeConfig(7), s.checkWriteStream)
	check(read, s.opt.readConfig(7), s.checkReadStream)
	config := s.opt.writeConfig(7)
	config.Replicas, s.opt.TTL = 3, 5*time.Second
	if err := s.checkWriteStream(config); !errors.Is(err, ErrBucket) || !strings.Contains(err.Error(), "TTL 5s with 3 replicas: want at least 10s") {
		t.Errorf("a short TTL with replicas: %v", err)
	}
}

func TestCompareVersions(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"2.14.0": true, "2.14.0-RC.1": true, "2.15.2": true, "3.0.0": true, "2.100.1": true,
		"2.13.9": false, "2.9.25": false, "1.99.0": false, "2": false, "dev": false,
	} {
		if got := compareVersions(version, minServer) >= 0; got != want {
			t.Errorf("%s is new enough: %v", version, got)
		}
	}
}

func TestTransientErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nats.ErrNoResponders, true},
		{jetstream.ErrNoStreamResponse, true},
		{nats.ErrDisconnected, true},
		{nats.ErrReconnectBufExceeded, true},
		{errContended, true},
		{fmt.Errorf("nats: %w", &jetstream.APIError{Code: 503}), true},
		{&jetstream.APIError{Code: 400, ErrorCode: jetstream.JSErrCodeStreamWrongLastSequenceConstant}, true},
		{&jetstream.APIError{Code: 429, ErrorCode: errTooMany}, true},
		{&jetstream.APIError{Code: 400, ErrorCode: jetstream.JSErrCodeStreamWrongLastSequence}, false},
		{&jetstream.APIError{Code: 503, ErrorCode: jetstream.JSErrCodeJetStreamNotEnabledForAccount}, false},
		{jetstream.ErrJetStreamNotEnabled, false},
		{context.DeadlineExceeded, false},
		{context.Canceled, false},
		{nats.ErrConnectionClosed, false},
		{nats.ErrMaxPayload, false},
		{ErrBucket, false},
	} {
		if got := isTransient(c.err); got != c.want {
			t.Errorf("%v is transient: %v", c.err, got)
		}
	}
}

func TestRetryReturnsTheLastFailure(t *testing.T) {
	t.Parallel()
	s := openStore(t, natstest.Run(t).Connect(t), Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := s.retry(ctx, func(context.Context) error { return nats.ErrNoResponders })
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("got %v", err)
	}
}

func TestConnectionThatBuffersIsRefused(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := New(nc, Options{}); err == nil || !strings.Contains(err.Error(), "ReconnectBufSize(-1)") {
		t.Errorf("got %v, want one that names the remedy", err)
	}
}
