package etcd

import (
	"errors"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
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
