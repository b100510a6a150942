package integration

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

const bucket = "dynplane"

var endpoints = discovery.Query{Kind: discovery.KindEndpoint}

func endpoint(name string) discovery.Endpoint {
	return discovery.Endpoint{
		Scope:     discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: name},
		Transport: discovery.TCP("127.0.0.1:4000/1/" + name),
	}
}

// newClient opens a client on a connection of its own. die ends it as a crash
// would: without unregistering anything.
func newClient(t *testing.T, url string, o natskv.Options) (client *discovery.Client, die func()) {
	t.Helper()
	nc := natstest.Connect(t, url)
	o.Bucket = bucket
	store, err := natskv.New(nc, o)
	if err != nil {
		t.Fatal(err)
	}
	client = discovery.NewClient(store, discovery.Options{Logger: o.Logger})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
		defer cancel()
		if nc.IsConnected() {
			if err := client.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			return
		}
		cancel()
		_ = client.Shutdown(ctx) // nothing can be unregistered without a server
	})
	return client, nc.Close
}

func register(t *testing.T, c *discovery.Client, id uint64, spec discovery.Spec) *discovery.Registration {
	t.Helper()
	reg, err := c.RegisterAs(t.Context(), id, spec)
	if err != nil {
		t.Fatalf("register: %v", err)
	}
	return reg
}

// watch collects the events of a watch in the background, with the time of
// their arrival.
type watch struct {
	t  *testing.T
	mu sync.Mutex
	ev []timedEvent
}

type timedEvent struct {
	discovery.Event
	at time.Time
}

func startWatch(t *testing.T, c *discovery.Client, q discovery.Query) *watch {
	t.Helper()
	w := &watch{t: t}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ev, err := range c.Watch(ctx, q) {
			if err != nil {
				if !errors.Is(err, context.Canceled) && !errors.Is(err, discovery.ErrClosed) {
					t.Errorf("watch: %v", err)
				}
				return
			}
			w.mu.Lock()
			w.ev = append(w.ev, timedEvent{ev, time.Now()})
			w.mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	w.await("synced", func(ev []timedEvent) bool { return count(ev, discovery.Synced, 0) == 1 })
	return w
}

func (w *watch) events() []timedEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]timedEvent(nil), w.ev...)
}

func (w *watch) await(what string, ok func([]timedEvent) bool) {
	w.t.Helper()
	waittest.Eventually(w.t, what, func() bool { return ok(w.events()) })
}

// awaitRemoved waits for the removal of an id and returns the time of its arrival.
func (w *watch) awaitRemoved(id uint64) time.Time {
	w.t.Helper()
	w.await(fmt.Sprintf("%d removed", id), func(ev []timedEvent) bool { return count(ev, discovery.Removed, id) > 0 })
	for _, ev := range w.events() {
		if ev.Type == discovery.Removed && ev.Instance.InstanceID == id {
			return ev.at
		}
	}
	return time.Time{}
}

func (w *watch) awaitAdded(ids ...uint64) {
	w.t.Helper()
	w.await(fmt.Sprintf("%d added", ids), func(ev []timedEvent) bool {
		for _, id := range ids {
			if count(ev, discovery.Added, id) == 0 {
				return false
			}
		}
		return true
	})
}

// expect requires that an id was added once, and removed so many times.
func (w *watch) expect(id uint64, removed int) {
	w.t.Helper()
	ev := w.events()
	if a, r := count(ev, discovery.Added, id), count(ev, discovery.Removed, id); a != 1 || r != removed {
		w.t.Errorf("instance %d: added %d times and removed %d times, want 1 and %d", id, a, r, removed)
	}
}

func count(events []timedEvent, typ discovery.EventType, id uint64) (n int) {
	for _, ev := range events {
		if ev.Type == typ && ev.Instance.Spec != nil && ev.Instance.InstanceID == id || typ == discovery.Synced && ev.Type == typ {
			n++
		}
	}
	return n
}

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

// outage waits while a server is down. It is the only wait for a time rather
// than a condition.
func outage(d time.Duration) { <-time.After(d) }

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

func TestOtherWritersInTheBucket(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	log := &logtest.Buffer{}
	o := natskv.Options{TTL: time.Second, Logger: log.Logger()}
	reader, _ := newClient(t, server.URL(), o)
	owner, _ := newClient(t, server.URL(), o)
	w := startWatch(t, reader, endpoints) // before there is a bucket
	register(t, owner, 1, endpoint("generate"))
	w.awaitAdded(1)

	nc := server.Connect(t)
	kv := natstest.KV(t, nc, bucket)
	const key = "endpoints.dynamo.backend.generate.1"
	// A plain client finds exactly the keys of living owners.
	keys, err := kv.Keys(t.Context())
	if err != nil || len(keys) != 1 || keys[0] != key {
		t.Fatalf("a plain client finds the keys %q (%v), want %q", keys, err, key)
	}
	// It can only read: a write into the bucket would be undone by nothing.
	if _, err := kv.PutString(t.Context(), key, "junk"); err == nil {
		t.Error("a plain client has written into the bucket")
	}
	if err := kv.Delete(t.Context(), key); err == nil {
		t.Error("a plain client has deleted from the bucket")
	}
	write := func(key, operation, value string) {
		t.Helper()
		m := nats.NewMsg("dynplane.entry." + bucket + "." + key)
		m.Data = []byte(value)
		if operation != "" {
			m.Header.Set("KV-Operation", operation)
		}
		if _, err := nc.RequestMsg(m, waittest.Patience); err != nil {
			t.Fatal(err)
		}
	}
	put := func(key, value string) { t.Helper(); write(key, "", value) }
	put("junk", "not ours")
	put("endpoints.dynamo.backend.generate.zz", `{"type":"Endpoint"}`)
	put("endpoints.dynamo.backend.generate.5", "\x00\xff not JSON")
	put("endpoints.dynamo.backend.generate.6", `{"type":"Endpoint","namespace":"dynamo","component":"backend","endpoint":"generate","instance_id":7,"transport":{"tcp":"x"}}`)
	put("endpoints.dynamo.backend.generate.7", strings.Repeat("[", 900_000))
	put("endpoints.dynamo.backend.generate.8", `{"type":"Endpoint","namespace":"dynamo","component":"backend","endpoint":"generate","instance_id":8,"transport":{"tcp":"x"}}`)
	w.awaitAdded(8) // a valid entry counts, whatever its writer
	w.await("the junk is counted", func([]timedEvent) bool { return reader.Stats().InvalidEntries >= 4 })

	// Invalid entries that were removed are not counted again.
	for _, junk := range []string{"junk", "endpoints.dynamo.backend.generate.zz"} {
		write(junk, "PURGE", "")
	}
	// The bucket follows; then another entry shows that it has the purges.
	put("endpoints.dynamo.backend.generate.9", `{"type":"Endpoint","namespace":"dynamo","component":"backend","endpoint":"generate","instance_id":9,"transport":{"tcp":"x"}}`)
	w.awaitAdded(9)
	tidy, _ := newClient(t, server.URL(), o)
	if _, err := tidy.List(t.Context(), endpoints); err != nil || tidy.Stats().InvalidEntries != 3 {
		t.Errorf("%d bad entries after two of them were removed (%v), want 3", tidy.Stats().InvalidEntries, err)
	}

	// An entry that is overwritten does not mean that its owner is dead.
	put(key, "overwritten")
	waittest.Eventually(t, "the owner writes it again", func() bool {
		e, err := kv.Get(t.Context(), key)
		return err == nil && strings.HasPrefix(string(e.Value()), `{"type":"Endpoint"`) &&
			log.Count("a writer that holds no lease overwrote") == 1
	})
	w.expect(1, 0)
	// A purge counts as a removal, and the owner registers again.
	write(key, "PURGE", "")
	w.await("removed and added again", func(ev []timedEvent) bool {
		return count(ev, discovery.Removed, 1) == 1 && count(ev, discovery.Added, 1) == 2
	})
	if n := log.Count("a writer that holds no lease overwrote"); n != 1 {
		t.Errorf("%d warnings about the other writer, want 1:\n%s", n, log)
	}
}

func TestBucketsThatCannotHoldLeases(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	nc := server.Connect(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: bucket}); err != nil {
		t.Fatal(err)
	}
	c, _ := newClient(t, server.URL(), natskv.Options{})
	_, err = c.Register(t.Context(), endpoint("generate"))
	if !errors.Is(err, natskv.ErrBucket) || !strings.Contains(err.Error(), "the source DYNPLANE_dynplane") {
		t.Fatalf("register in a plain bucket: %v, want ErrBucket that names the missing feature", err)
	}
	for _, o := range []natskv.Options{
		{TTL: 300 * time.Millisecond}, {TTL: 1500 * time.Millisecond}, {TTL: -time.Second},
		{Replicas: 2}, {Replicas: 3, TTL: 5 * time.Second}, {Bucket: "a.b"},
	} {
		if _, err := natskv.New(nc, o); err == nil {
			t.Errorf("settings %+v are taken, want an error", o)
		}
	}
}

func TestMissingBucketIsEmpty(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	c, _ := newClient(t, server.URL(), natskv.Options{})
	got, err := c.List(t.Context(), endpoints)
	if err != nil || len(got) != 0 {
		t.Fatalf("list of a missing bucket: %v, %v", got, err)
	}
	next, stop := iter.Pull2(c.Watch(t.Context(), endpoints))
	defer stop()
	if ev, err, _ := next(); err != nil || ev.Type != discovery.Synced {
		t.Fatalf("watch of a missing bucket begins with %v, %v, want synced", ev, err)
	}
}
