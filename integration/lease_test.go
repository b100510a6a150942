package integration

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

func TestDeadOwnerIsRemovedInTime(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	for _, ttl := range []time.Duration{time.Second, 3 * time.Second} {
		t.Run(ttl.String(), func(t *testing.T) {
			o := natskv.Options{TTL: ttl}
			reader, _ := newClient(t, server.URL(), o)
			living, _ := newClient(t, server.URL(), o)
			dying, die := newClient(t, server.URL(), o)
			register(t, living, 1, endpoint("generate"))
			register(t, dying, 2, endpoint("generate"))
			w := startWatch(t, reader, endpoints)
			w.awaitAdded(1, 2)
			died := time.Now()
			die()
			// The promise is TTL + 1 s; this machine may be busy with other tests.
			if took := w.awaitRemoved(2).Sub(died); took > ttl+4*time.Second {
				t.Errorf("removed after %v with a TTL of %v", took, ttl)
			}
			w.expect(1, 0)
			w.expect(2, 1)
			// By the server's own stamps the purge follows the deadline within a second.
			if late := markerDelay(t, server, "endpoints.dynamo.backend.generate.2"); late < 0 || late > time.Second {
				t.Errorf("the purge came %v after the deadline", late)
			}
		})
	}
}

// markerDelay reads the purge marker of a key from the stream, and returns the
// time between the deadline in its body and the time when the server stored it.
func markerDelay(t *testing.T, server *natstest.Server, key string) time.Duration {
	t.Helper()
	js, err := jetstream.New(server.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "KV_"+bucket)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetLastMsgForSubject(t.Context(), "$KV."+bucket+"."+key)
	if err != nil {
		t.Fatal(err)
	}
	var deadline, ttl int64
	if _, err := fmt.Sscanf(string(msg.Data), `{"deadline_ms":%d,"ttl_ms":%d}`, &deadline, &ttl); err != nil {
		t.Fatalf("marker %q: %v", msg.Data, err)
	}
	return msg.Time.Sub(time.UnixMilli(deadline))
}

func TestServerRestart(t *testing.T) {
	t.Parallel()
	const ttl, hold = 2 * time.Second, 4 * time.Second
	for _, c := range []struct {
		name   string
		down   time.Duration
		wipe   bool
		memory bool
	}{
		{"shorter than the TTL", 500 * time.Millisecond, false, false},
		{"longer than the TTL", 3 * ttl, false, false},
		{"store lost", 500 * time.Millisecond, true, false},
		{"store lost for long", 3 * ttl, true, false},
		{"memory bucket", 3 * ttl, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := natstest.Run(t)
			log := &logtest.Buffer{}
			o := natskv.Options{TTL: ttl, Memory: c.memory, Logger: log.Logger()}
			reader, _ := newClient(t, server.URL(), o)
			living, _ := newClient(t, server.URL(), o)
			dying, die := newClient(t, server.URL(), o)
			for id := range uint64(20) {
				register(t, living, 1+id, endpoint("generate"))
			}
			register(t, dying, 100, endpoint("generate"))
			w := startWatch(t, reader, endpoints)
			w.awaitAdded(1, 20, 100)

			server.Stop()
			die()
			if c.wipe {
				server.Wipe()
			}
			outage(c.down)
			server.Start()
			up := time.Now()

			// A removal after a fault is held for a TTL and the time to reconnect.
			if took := w.awaitRemoved(100).Sub(up); took > hold+20*time.Second {
				t.Errorf("the dead owner was removed %v after the server was back, with a TTL of %v", took, ttl)
			}
			register(t, living, 200, endpoint("generate")) // the owner still works
			w.awaitAdded(200)
			waittest.Eventually(t, "the bucket has all living owners again", func() bool {
				got, err := reader.List(t.Context(), endpoints)
				return err == nil && len(got) == 21
			})
			for id := range uint64(20) {
				w.expect(1+id, 0)
			}
			w.expect(100, 1)
			// If the store was kept, the owner may reconnect before its leases expire.
			if n := log.Count("written again"); n > 1 || n == 0 && (c.wipe || c.memory) {
				t.Errorf("%d warnings about lost registrations, want one for all of them:\n%s", n, log)
			}
		})
	}
}

func TestClusterLosesItsLeader(t *testing.T) {
	t.Parallel()
	servers := natstest.Cluster(t, 3)
	const ttl = 10 * time.Second
	o := natskv.Options{TTL: ttl, Replicas: 3}
	url := natstest.URLs(servers)
	reader, _ := newClient(t, url, o)
	living, _ := newClient(t, url, o)
	dying, die := newClient(t, url, o)
	for id := range uint64(20) {
		register(t, living, 1+id, endpoint("generate"))
	}
	register(t, dying, 100, endpoint("generate"))
	w := startWatch(t, reader, endpoints)
	w.awaitAdded(1, 20, 100)
	leader := natstest.Leader(servers, "KV_"+bucket)
	if leader == nil {
		t.Fatal("the stream has no leader")
	}
	leader.Stop()
	die()
	w.awaitRemoved(100)
	register(t, living, 200, endpoint("generate"))
	w.awaitAdded(200)
	leader.Start()
	for id := range uint64(20) {
		w.expect(1+id, 0)
	}
	w.expect(100, 1)
}

func TestOwnerWithAWrongClock(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{5 * time.Minute, -5 * time.Minute} {
		t.Run(off.String(), func(t *testing.T) {
			t.Parallel()
			server := natstest.Run(t)
			log := &logtest.Buffer{}
			const ttl = 2 * time.Second // a busy machine may pause for one
			now := func() time.Time { return time.Now().Add(off) }
			reader, _ := newClient(t, server.URL(), natskv.Options{TTL: ttl})
			owner, die := newClient(t, server.URL(), natskv.Options{TTL: ttl, Now: now, Logger: log.Logger()})
			w := startWatch(t, reader, endpoints)
			register(t, owner, 1, endpoint("generate"))
			w.awaitAdded(1)
			outage(2 * ttl) // several renewals
			w.expect(1, 0)
			died := time.Now()
			die()
			if took := w.awaitRemoved(1).Sub(died); took > ttl+4*time.Second {
				t.Errorf("removed after %v", took)
			}
			if n := log.Count("clock"); n != 1 {
				t.Errorf("%d warnings about the clock, want 1:\n%s", n, log)
			}
		})
	}
}

func TestTwoOwnersOfOneID(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	const ttl = 2 * time.Second
	o := natskv.Options{TTL: ttl}
	reader, _ := newClient(t, server.URL(), o)
	w := startWatch(t, reader, endpoints)
	former, _ := newClient(t, server.URL(), o)
	owner, die := newClient(t, server.URL(), o)
	reg := register(t, former, 1, endpoint("generate"))
	register(t, owner, 1, endpoint("generate"))
	if err := reg.Wait(t.Context()); !errors.Is(err, discovery.ErrTakenOver) || !strings.Contains(err.Error(), "dynamo/backend/generate/1") {
		t.Fatalf("the former owner receives %v, want ErrTakenOver that names the path", err)
	}
	outage(2 * ttl)
	w.expect(1, 0) // the new owner keeps it alive, and the value is the same
	die()
	w.awaitRemoved(1) // and the former owner does not write it again
	w.expect(1, 1)
}

func TestWatcherThatLostItsConnection(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	o := natskv.Options{TTL: 2 * time.Second}
	readerConn := natstest.Connect(t, server.URL())
	o.Bucket = bucket
	store, err := natskv.New(readerConn, o)
	if err != nil {
		t.Fatal(err)
	}
	reader := discovery.NewClient(store, discovery.Options{})
	owner, _ := newClient(t, server.URL(), o)
	register(t, owner, 1, endpoint("stays"))
	goes := register(t, owner, 2, endpoint("goes"))
	w := startWatch(t, reader, endpoints)
	w.awaitAdded(1, 2)
	cid, err := readerConn.GetClientID()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Server().DisconnectClientByID(cid); err != nil {
		t.Fatal(err)
	}
	if err := goes.Unregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	register(t, owner, 3, endpoint("comes"))
	w.awaitAdded(3)
	w.awaitRemoved(2)
	w.expect(1, 0)
	w.expect(2, 1)
	w.expect(3, 0)
}
