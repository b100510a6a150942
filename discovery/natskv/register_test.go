package natskv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// A Register that is canceled leaves nothing, and does not end the former owner; one
// that succeeds all the same has a living lease.
func TestCanceledRegister(t *testing.T) {
	t.Parallel()
	const (
		tries = 300
		rtt   = 20 * time.Millisecond
	)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	server := natstest.Run(t)
	former := openStore(t, server.Connect(t), Options{TTL: time.Minute})
	s := openStore(t, connectAcross(t, server, rtt), Options{TTL: time.Minute})
	registerOne(t, s) // the streams exist and the connection is set up
	var failed, succeeded atomic.Int64
	var wg sync.WaitGroup
	free := make(chan struct{}, 32)
	for try := range uint64(tries) {
		id := 100 + try
		after := time.Duration(random.Int64N(int64(4 * rtt)))
		taken := random.IntN(2) == 0
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			if cancelRegister(t, s, former, id, after, taken) {
				succeeded.Add(1)
			} else {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	t.Logf("%d of %d have failed", failed.Load(), tries)
	if failed.Load() < tries/20 || succeeded.Load() < tries/20 {
		t.Errorf("%d have failed, %d have succeeded: want both", failed.Load(), succeeded.Load())
	}
}

// cancelRegister reports whether the registration has succeeded.
func cancelRegister(t *testing.T, s, former *Store, id uint64, after time.Duration, taken bool) (succeeded bool) {
	t.Helper()
	var theirs *lease
	if taken {
		l, err := former.Register(t.Context(), endpointID(id), endpointValue(id, "former"), discovery.RegisterOptions{})
		if err != nil {
			t.Error(err)
			return false
		}
		theirs = l.(*lease)
	}
	ctx, cancel := context.WithTimeout(t.Context(), after)
	defer cancel()
	l, err := s.Register(ctx, endpointID(id), endpointValue(id, "ours"), discovery.RegisterOptions{})
	found, rerr := former.readEntry(t.Context(), encodeKey(endpointID(id)))
	switch {
	case rerr != nil:
		t.Error(rerr)
	case err == nil:
		if l.(*lease).Ended() || found.owner() != l.(*lease).owner || found.seq != l.(*lease).sequence() {
			t.Errorf("%d: registered, and the entry is that of %q", id, found.owner())
		}
		return true
	case !errors.Is(err, context.DeadlineExceeded):
		t.Errorf("%d: %v", id, err)
	case taken && (theirs.Ended() || found.owner() != theirs.owner || found.seq != theirs.sequence()):
		t.Errorf("%d: register has failed with %v, and the entry is not the former owner's", id, err)
	case !taken && found.living():
		t.Errorf("%d: register has failed with %v, and left an entry", id, err)
	}
	return false
}

// A connection that is cut between lease and entry: what is left of the call is a
// lease without an entry, or with that of the former owner, who prolongs it.
func TestRegisterWhoseConnectionIsCut(t *testing.T) {
	t.Parallel()
	const tries = 20
	server := natstest.Run(t)
	former := openStore(t, server.Connect(t), Options{TTL: 3 * time.Second})
	s := openStore(t, connectAcross(t, server, 40*time.Millisecond), Options{TTL: 3 * time.Second})
	registerOne(t, s)
	leases := registerMany(t, former, 100, tries)
	results := make([]error, tries)
	var wg sync.WaitGroup
	for i := range uint64(tries) {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
			defer cancel()
			_, results[i] = s.Register(ctx, endpointID(100+i), endpointValue(100+i, "ours"), discovery.RegisterOptions{})
		})
	}
	<-time.After(50 * time.Millisecond) // lease sent, entry not yet acknowledged
	if err := s.nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	// Until every lease that was written would have expired.
	<-time.After(4 * time.Second)
	for i, l := range leases {
		found, err := former.readEntry(t.Context(), l.key)
		if err != nil {
			t.Fatal(err)
		}
		if !found.living() {
			t.Errorf("%s has no owner after %v", l.key, results[i])
		}
		if results[i] != nil && found.owner() != l.owner {
			t.Errorf("%s: register has failed with %v, and the entry is not the former owner's", l.key, results[i])
		}
		if results[i] == nil && found.owner() == l.owner {
			t.Errorf("%s: registered, and the entry is the former owner's", l.key)
		}
	}
}

// Of two registrations of one id at once by one store exactly one ends.
func TestOneStoreRegistersTwiceAtOnce(t *testing.T) {
	t.Parallel()
	const rounds = 300
	s := openStore(t, natstest.Run(t).Connect(t), Options{TTL: time.Minute})
	for round := range uint64(rounds) {
		both := registerAtOnce(t, endpointID(round), s, s)
		ended := slices.IndexFunc(both, func(l *lease) bool { return l.Ended() })
		if ended < 0 || both[1-ended].Ended() {
			t.Fatalf("round %d: ended: %v, %v; want one of them", round, both[0].Ended(), both[1].Ended())
		}
		if err := both[ended].Wait(t.Context()); !errors.Is(err, discovery.ErrTakenOver) {
			t.Fatalf("round %d: a lease has ended with %v", round, err)
		}
		if owner, there := present(t, s, both[0]); !there || owner != both[1-ended].owner {
			t.Fatalf("round %d: the entry is that of %q, there: %v", round, owner, there)
		}
		if err := beat(t, s, both[1-ended]); err != nil {
			t.Fatalf("round %d: the next heartbeat: %v", round, err)
		}
	}
}

func registerAtOnce(t *testing.T, id discovery.ID, stores ...*Store) []*lease {
	t.Helper()
	leases := make([]*lease, len(stores))
	var wg sync.WaitGroup
	for i, s := range stores {
		wg.Go(func() {
			l, err := s.Register(t.Context(), id, endpointValue(id.Instance, fmt.Sprint(i)), discovery.RegisterOptions{})
			if err != nil {
				t.Errorf("register: %v", err)
				return
			}
			leases[i] = l.(*lease)
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return leases
}

func TestContendedRegistrationsAreFast(t *testing.T) {
	t.Parallel()
	const rounds = 100
	server := natstest.Run(t)
	a := openStore(t, server.Connect(t), Options{TTL: 6 * time.Second})
	b := openStore(t, server.Connect(t), Options{TTL: 6 * time.Second})
	var took []time.Duration
	var pairs [][]*lease
	for round := range uint64(rounds) {
		begun := time.Now()
		pairs = append(pairs, registerAtOnce(t, endpointID(round), a, b))
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	t.Logf("median %v, longest %v", took[rounds/2], took[rounds-1])
	if took[rounds/2] > 100*time.Millisecond {
		t.Errorf("the median of contended registrations is %v", took[rounds/2])
	}
	waittest.Eventually(t, "one of each two leases has ended", func() bool {
		return !slices.ContainsFunc(pairs, func(pair []*lease) bool { return pair[0].Ended() == pair[1].Ended() })
	})
}

func TestIfAbsentOfManyAtOnce(t *testing.T) {
	t.Parallel()
	const stores, rounds = 20, 5
	server := natstest.Run(t)
	all := make([]*Store, stores)
	for i := range all {
		all[i] = openStore(t, server.Connect(t), Options{})
	}
	for round := range uint64(rounds) {
		var won, refused atomic.Int64
		var wg sync.WaitGroup
		for _, s := range all {
			wg.Go(func() {
				_, err := s.Register(t.Context(), endpointID(round), endpointValue(round, "a"), discovery.RegisterOptions{IfAbsent: true})
				switch {
				case err == nil:
					won.Add(1)
				case errors.Is(err, discovery.ErrExists):
					refused.Add(1)
				default:
					t.Errorf("register: %v", err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 || refused.Load() != stores-1 {
			t.Errorf("round %d: %d have registered, %d were refused", round, won.Load(), refused.Load())
		}
	}
}

// Neither updates nor heartbeats fail because of the other, and readers see no removal.
func TestUpdatesAmongHeartbeats(t *testing.T) {
	t.Parallel()
	const updates = 300
	server := natstest.Run(t)
	s := openStore(t, server.Connect(t), Options{TTL: 2 * time.Second})
	client := discovery.NewClient(openStore(t, server.Connect(t), Options{}), discovery.Options{})
	l := registerOne(t, s)
	last := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	go func() {
		defer close(last)
		for ev, err := range client.Watch(ctx, discovery.Query{Kind: discovery.KindEndpoint}) {
			if err != nil || ev.Type == discovery.Removed {
				t.Errorf("%v, %v", ev.Type, err)
				return
			}
			if bytes.Contains(ev.Instance.Raw, fmt.Appendf(nil, "value-%d\"", updates-1)) {
				return
			}
		}
	}()
	done := make(chan struct{})
	var beats sync.WaitGroup
	beats.Go(func() {
		h, err := newHeartbeats(s)
		if err != nil {
			t.Error(err)
			return
		}
		defer h.close()
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
				if err := h.send(l, l.sequence(), time.Now()); err != nil {
					t.Error(err)
				}
				h.collect(time.Time{}, time.Time{})
			}
		}
	})
	for i := range updates {
		if err := l.Update(t.Context(), endpointValue(1, fmt.Sprint("value-", i))); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	beats.Wait()
	<-last
	if h, _ := l.Health(); !h.Healthy {
		t.Errorf("the lease is %+v", h)
	}
	other := registerOne(t, openStore(t, server.Connect(t), Options{}))
	if err := l.Update(t.Context(), endpointValue(1, "late")); !errors.Is(err, discovery.ErrTakenOver) {
		t.Errorf("an update after a take-over: %v", err)
	}
	if found, err := s.readEntry(t.Context(), l.key); err != nil || found.owner() != other.owner || strings.Contains(string(found.data), "late") {
		t.Errorf("the entry of the new owner is %q, %v", found.data, err)
	}
}

// A take-over that fails after it has written its lease leaves the former owner the
// time that it had.
func TestFailedTakeOverDoesNotShortenTheFormerLease(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t, natstest.Denied("former", "secret", "", ""), natstest.Denied("other", "secret", "dynplane.entry.>", ""))
	former := openStore(t, connectAs(t, server, "former"), Options{TTL: time.Minute})
	l := registerOne(t, former)
	other := newStore(t, connectAs(t, server, "other"), Options{TTL: time.Second})
	if _, err := other.Register(t.Context(), endpointID(1), endpointValue(1, "b"), discovery.RegisterOptions{}); err == nil {
		t.Fatal("registered without the permission for its entry")
	}
	var body leaseBody
	waittest.Eventually(t, "the lease can be read", func() bool {
		stream, err := former.js.Stream(t.Context(), former.opt.writeStream())
		if err != nil {
			return false
		}
		msg, err := stream.GetLastMsgForSubject(t.Context(), former.opt.leaseSubject(l.key))
		return err == nil && json.Unmarshal(msg.Data, &body) == nil
	})
	if left := time.Until(time.UnixMilli(body.Deadline)); left < 30*time.Second {
		t.Errorf("the lease ends in %v, want that of its owner", left)
	}
}
