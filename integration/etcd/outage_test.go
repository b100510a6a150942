package etcd

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery/etcd"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

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
