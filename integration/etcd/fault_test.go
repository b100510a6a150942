package etcd

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/etcd"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

const (
	registeredAgain = "registrations were lost and have been written again"
	// hold is the time for which a watcher holds back removals after an outage.
	hold = 10 * time.Second
)

func keyOf(id uint64) string { return fmt.Sprintf("v1/instances/dynamo/backend/generate/%x", id) }

func TestKilledOwnerIsRemoved(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	client := newClient(t, s.url(), nil)
	register(t, client, 1, worker)
	w := startWatch(t, newClient(t, s.url(), nil), endpoints)
	kill := runOwner(t, s.url())
	w.await("+66")
	kill()
	w.await("-66")
	w.expect("synced", "+1", "+66", "-66")
}

func TestTakenOver(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	log := &logtest.Buffer{}
	former, owner := newClient(t, s.url(), log), newClient(t, s.url(), nil)
	reg := register(t, former, 1, worker)
	register(t, owner, 1, worker)
	if err := reg.Wait(t.Context()); !errors.Is(err, discovery.ErrTakenOver) {
		t.Fatal(err)
	}
	if n := log.Count("another owner took over"); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}
}

func TestServerRestart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		outage time.Duration
		wipe   bool
		end    func(*server)
	}{
		{"shorter than the TTL", 500 * time.Millisecond, false, (*server).stop},
		{"longer than the TTL", 5 * time.Second, false, (*server).kill},
		{"with its data lost", 3 * time.Second, true, (*server).kill},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := runServer(t)
			log := &logtest.Buffer{}
			living := newClient(t, s.url(), log)
			register(t, living, 1, worker)
			register(t, living, 2, worker)
			kill := runOwner(t, s.url())
			w := startWatch(t, newClient(t, s.url(), nil), endpoints)
			w.await("+1", "+2", "+66")
			c.end(s)
			kill()
			if c.wipe {
				s.wipe()
			}
			rest(t, c.outage)
			s.start()
			w.await("-66")
			w.expect("synced", "+1", "+2", "+66", "-66")
			register(t, living, 3, worker)
			w.await("+3")
			// Without the data the lease must be lost; on a busy machine it may be anyway.
			if n := log.Count(registeredAgain); c.wipe && n == 0 {
				t.Error("no warning that registrations were lost")
			}
			in, err := newClient(t, s.url(), nil).List(t.Context(), endpoints)
			if err != nil || len(in) != 3 {
				t.Errorf("listed %d, %v; want 3", len(in), err)
			}
		})
	}
}

// TestOutageIsLoggedOnce has several watches of one client survive an outage, of
// a kind that refuses connections and of one that answers nothing.
func TestOutageIsLoggedOnce(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]struct{ begin, end func(*server) }{
		"stopped": {(*server).stop, (*server).start},
		"stalled": {
			func(s *server) { s.signal(syscall.SIGSTOP) },
			func(s *server) { s.signal(syscall.SIGCONT) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, log := runServer(t), &logtest.Buffer{}
			client := newClient(t, s.url(), log)
			watches := []*watch{startWatch(t, client, endpoints), startWatch(t, client, endpoints), startWatch(t, client, endpoints)}
			for _, w := range watches {
				w.await("synced")
			}
			count := func() (lost, back int) {
				return log.Count("etcd: the store does not answer"), log.Count("etcd: the store answers again")
			}
			for id := range uint64(2) {
				outage.begin(s)
				var began int
				waittest.Eventually(t, "warning", func() bool {
					lost, back := count()
					began = lost
					return lost > back
				})
				rest(t, 3*time.Second) // in which all watches notice
				if lost, back := count(); lost != began || back != began-1 {
					t.Errorf("want one warning of an outage: %s", log)
				}
				outage.end(s)
				waittest.Eventually(t, "end of the outage", func() bool {
					lost, back := count()
					return lost == back
				})
				register(t, newClient(t, s.url(), nil), id, worker)
				for _, w := range watches {
					w.await(fmt.Sprint("+", id))
				}
			}
		})
	}
}

// TestStalledServer stops the server until every lease has expired by its clock.
func TestStalledServer(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	living := newClient(t, s.url(), nil)
	register(t, living, 1, worker)
	kill := runOwner(t, s.url())
	w := startWatch(t, newClient(t, s.url(), nil), endpoints)
	w.await("+66")
	s.signal(syscall.SIGSTOP)
	kill()
	rest(t, 5*time.Second)
	s.signal(syscall.SIGCONT)
	w.await("-66")
	w.expect("synced", "+1", "+66", "-66")
}

func TestCompactionUnderADisconnectedWatch(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	client := newClient(t, s.url(), nil)
	kept := register(t, client, 1, worker)
	going := register(t, client, 2, worker)
	p := newProxy(t, s.config.Listen)
	w := startWatch(t, newClient(t, p.url(), nil), endpoints)
	p.disconnect()
	if err := going.Unregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	register(t, client, 3, worker)
	raw := s.raw()
	resp, err := raw.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Compact(t.Context(), resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	p.reconnect()
	w.await("+3", "-2")
	if err := kept.Unregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.await("-1")
	w.expect("synced", "+1", "+2", "+3", "-2", "-1")
}

func TestCompactionUnderAnOpenWatch(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	client, raw := newClient(t, s.url(), nil), s.raw()
	w := startWatch(t, client, endpoints)
	for id := range uint64(20) {
		reg := register(t, client, id, worker)
		if err := reg.Unregister(t.Context()); err != nil {
			t.Fatal(err)
		}
		resp, err := raw.Get(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := raw.Compact(t.Context(), resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
			t.Fatal(err)
		}
	}
	for id := range uint64(20) {
		w.await(fmt.Sprint("+", id), fmt.Sprint("-", id))
	}
}

func TestUnregisterAfterUncertaintyIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	client, other := newClient(t, s.url(), nil), newClient(t, s.url(), nil)
	reg := register(t, client, 1, worker)
	register(t, other, 2, worker)
	p, log := newProxy(t, s.config.Listen), &logtest.Buffer{}
	w := startWatch(t, newClient(t, p.url(), log), endpoints)
	p.disconnect()
	register(t, client, 3, worker)
	rest(t, 3*time.Second)
	began := time.Now()
	p.reconnect()
	w.await("+3")
	if err := reg.Unregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := other.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.await("-1", "-2")
	if took := time.Since(began); took >= hold {
		t.Errorf("removed %v after the outage, want no removal to be held back", took)
	}
}

func TestLeaseRevokedFromOutside(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	log := &logtest.Buffer{}
	client, raw := newClient(t, s.url(), log), s.raw()
	for id := range uint64(40) {
		register(t, client, id, worker)
	}
	leases, err := raw.Leases(t.Context())
	if err != nil || len(leases.Leases) != 1 {
		t.Fatalf("leases %v, %v; want one for all registrations", leases, err)
	}
	if _, err := raw.Revoke(t.Context(), leases.Leases[0].ID); err != nil {
		t.Fatal(err)
	}
	waittest.Eventually(t, "warning", func() bool { return log.Count(registeredAgain) > 0 })
	in, err := client.List(t.Context(), endpoints)
	if err != nil || len(in) != 40 {
		t.Errorf("listed %d, %v; want 40", len(in), err)
	}
	if n := log.Count("WARN"); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}
	register(t, client, 41, worker)
}

func TestOtherWriterOverwritesOurs(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	log := &logtest.Buffer{}
	client, raw := newClient(t, s.url(), log), s.raw()
	register(t, client, 1, worker)
	register(t, client, 2, worker)
	written, err := raw.Get(t.Context(), keyOf(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Put(t.Context(), keyOf(1), "mine"); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Delete(t.Context(), keyOf(2)); err != nil {
		t.Fatal(err)
	}
	waittest.Eventually(t, "warnings", func() bool {
		return log.Count("a writer that holds no lease overwrote") == 1 && log.Count(registeredAgain) > 0
	})
	waittest.Eventually(t, "both again", func() bool {
		resp, err := raw.Get(t.Context(), "v1/instances/", clientv3.WithPrefix())
		return err == nil && len(resp.Kvs) == 2 && string(resp.Kvs[0].Value) == string(written.Kvs[0].Value)
	})
}

// TestFailedRequestsLeaveNothing loses the connection during requests.
func TestFailedRequestsLeaveNothing(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	p := newProxy(t, s.config.Listen)
	client, raw := newClient(t, p.url(), nil), s.raw()
	register(t, client, 1, worker)
	reg := register(t, client, 2, worker)
	p.disconnect()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := reg.Unregister(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("unregister without a connection: %v", err)
	}
	if _, err := client.RegisterAs(ctx, 3, worker); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("register without a connection: %v", err)
	}
	// A put that succeeded although its response was lost.
	entry, err := raw.Get(t.Context(), keyOf(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Put(t.Context(), keyOf(4), "{}", clientv3.WithLease(clientv3.LeaseID(entry.Kvs[0].Lease))); err != nil {
		t.Fatal(err)
	}
	p.reconnect()
	waittest.Eventually(t, "one entry", func() bool {
		resp, err := raw.Get(t.Context(), "v1/instances/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && resp.Count == 1
	})
}

func TestDisconnectedOwnerRegistersAgain(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	p, log := newProxy(t, s.config.Listen), &logtest.Buffer{}
	client := newClient(t, p.url(), log)
	register(t, client, 1, worker)
	w := startWatch(t, newClient(t, s.url(), nil), endpoints)
	p.disconnect()
	w.await("-1")
	p.reconnect()
	waittest.Eventually(t, "added again", func() bool { return w.count("+1") == 2 })
	waittest.Eventually(t, "keep-alive recovered", func() bool { return log.Count("keep-alive recovered") == 1 })
	if n := log.Count("keep-alive failed"); n != 1 {
		t.Errorf("%d warnings of a failed keep-alive, want 1", n)
	}
}

func TestDialWithoutServer(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "127.0.0.1:1")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for _, o := range []etcd.Options{
		{Endpoints: []string{p.url(), "http://127.0.0.1:1"}},
		{Endpoints: []string{p.url(), "http://127.0.0.1:1"}, Username: "u", Password: "p"},
	} {
		_, err := etcd.Dial(ctx, o)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial: %v", err)
		}
		t.Log(err)
	}
}

// TestManyOwnersDieAtOnce kills many owners at once, each with its own lease.
func TestManyOwnersDieAtOnce(t *testing.T) {
	t.Parallel()
	const owners = 300
	s := runServer(t)
	client, raw := newClient(t, s.url(), nil), s.raw()
	var leases []clientv3.LeaseID
	for id := range uint64(owners) {
		lease, err := raw.Grant(t.Context(), 60)
		if err != nil {
			t.Fatal(err)
		}
		value, err := discovery.Instance{InstanceID: id, Spec: worker}.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := raw.Put(t.Context(), keyOf(id), string(value), clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
		leases = append(leases, lease.ID)
	}
	w := startWatch(t, client, endpoints)
	for _, lease := range leases {
		if _, err := raw.Revoke(t.Context(), lease); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	for id := range owners {
		w.await(fmt.Sprint("-", id))
	}
	if took := time.Since(began); took >= hold {
		t.Errorf("removed %v after the last death, want no removal to be held back", took)
	}
}
