package integration

import (
	"errors"
	"iter"
	"strings"
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
