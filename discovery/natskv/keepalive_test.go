package natskv

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/wait"
	"github.com/dynplane/dynplane/internal/waittest"
)

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

// TestRetriesPrecedeLaterHeartbeats: a heartbeat that is repeated is not sent a whole
// interval later, behind those of all other leases.
func TestRetriesPrecedeLaterHeartbeats(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	s := openStore(t, server.Connect(t), Options{TTL: time.Hour})
	now := time.Now()
	l := make([]*lease, 6)
	for i := range l {
		l[i] = s.newLease(endpointID(uint64(i)), nil)
	}
	k := &keeper{store: s, beats: &heartbeats{acked: []*heartbeat{
		{lease: l[3], at: now, err: &jetstream.APIError{ErrorCode: errTooMany}},
		{lease: l[4], at: now},
		{lease: l[5], at: now, err: errNoAck},
	}}}
	for i, at := range []time.Duration{0, 4 * time.Minute, 10 * time.Minute} {
		k.schedule(l[i], now.Add(at))
	}
	k.urgent = 1
	k.takeAcks(now)
	var got []*lease
	for _, next := range k.queue {
		got = append(got, next.lease)
	}
	if want := []*lease{l[0], l[5], l[1], l[3], l[2], l[4]}; !slices.Equal(got, want) {
		t.Errorf("the order is %v", got)
	}
}

// TestFailedChecksAreLoggedOnce beside heartbeats that are acknowledged.
func TestFailedChecksAreLoggedOnce(t *testing.T) {
	t.Parallel()
	log := &logtest.Buffer{}
	s := newStore(t, natstest.Run(t).Connect(t), Options{Logger: log.Logger()})
	k := &keeper{store: s, backoff: wait.Backoff{Min: time.Second, Max: time.Second}}
	for _, err := range []error{nil, errNoAck, errNoAck, nil, nil, errNoAck} {
		k.result, k.hasResult = err, true
		k.takeCheck(time.Now())
	}
	if failed, again := log.Count("could not be checked"), log.Count("checked again"); failed != 2 || again != 1 {
		t.Errorf("%d failures and %d successes are logged, want 2 and 1:\n%s", failed, again, log)
	}
}

// TestDeletedStreamPutsOffNoAwaitedCheck: suspended heartbeats wait for the next check.
func TestDeletedStreamPutsOffNoAwaitedCheck(t *testing.T) {
	t.Parallel()
	k := &keeper{store: &Store{opt: Options{TTL: time.Hour}}}
	k.fail(errNoAck)
	k.checkSoon()
	if !k.checkAt.IsZero() {
		t.Errorf("the next check is put off until %v", k.checkAt)
	}
}
