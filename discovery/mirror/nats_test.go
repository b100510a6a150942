package mirror_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/mirror"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

const ttl = 2 * time.Second

// bucket opens a client of a bucket on a connection of its own.
func bucket(t *testing.T, server *natstest.Server, name string, ttl time.Duration) (*discovery.Client, *nats.Conn) {
	t.Helper()
	nc := server.Connect(t)
	store, err := natskv.New(nc, natskv.Options{Bucket: name, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	client := discovery.NewClient(store, discovery.Options{})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
		defer cancel()
		if err := client.Shutdown(ctx); err != nil && !nc.IsClosed() {
			t.Errorf("shutdown: %v", err)
		}
	})
	return client, nc
}

// tally follows a bucket and counts its entries and their removals.
type tally struct {
	mu      sync.Mutex
	present map[discovery.ID]discovery.Instance
	removed int
	synced  bool
}

func follow(t *testing.T, c *discovery.Client) *tally {
	t.Helper()
	y := &tally{present: map[discovery.ID]discovery.Instance{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ev, err := range c.Watch(ctx, discovery.Query{Kind: discovery.KindEndpoint}) {
			if err != nil {
				return
			}
			y.note(ev)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	waittest.Eventually(t, "the watch is synced", func() bool {
		y.mu.Lock()
		defer y.mu.Unlock()
		return y.synced
	})
	return y
}

func (y *tally) note(ev discovery.Event) {
	y.mu.Lock()
	defer y.mu.Unlock()
	switch ev.Type {
	case discovery.Added:
		y.present[ev.Instance.ID()] = ev.Instance
	case discovery.Removed:
		delete(y.present, ev.Instance.ID())
		y.removed++
	case discovery.Synced:
		y.synced = true
	}
}

func (y *tally) state() (present, removed int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return len(y.present), y.removed
}

// mark returns the marker of one of the entries.
func (y *tally) mark() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, in := range y.present {
		_, mark, _ := strings.Cut(string(in.Raw), mirror.Field)
		return mark
	}
	return ""
}

// marked counts the entries with a marker.
func (y *tally) marked(mark string) (n int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, in := range y.present {
		if strings.HasSuffix(string(in.Raw), mark) {
			n++
		}
	}
	return n
}

func (y *tally) await(t *testing.T, want int) {
	t.Helper()
	waittest.Eventually(t, "all entries are present", func() bool {
		present, _ := y.state()
		return present == want
	})
}

// run starts a mirror and waits until it is in sync. stop ends the mirror and
// returns its error.
func run(t *testing.T, from, to *discovery.Client, log *slog.Logger) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended, inSync := make(chan error, 1), make(chan mirror.Counts, 1)
	go func() {
		ended <- mirror.Run(ctx, from, to, mirror.Options{InSync: func(c mirror.Counts) { inSync <- c }, Logger: log})
	}()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = stop() })
	select {
	case <-inSync:
	case <-time.After(waittest.Patience):
		t.Fatal("the mirror is not in sync")
	}
	return stop
}

func registerMany(t *testing.T, c *discovery.Client, many int) {
	t.Helper()
	for id := range many {
		if _, err := c.RegisterAs(t.Context(), uint64(id), endpoint("10.0.0.1:1")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTwoMirrorsOfHundredsRemoveNothing(t *testing.T) {
	t.Parallel()
	const many, ttl = 500, 10 * time.Second
	server := natstest.Run(t)
	worker, _ := bucket(t, server, "a", ttl)
	registerMany(t, worker, many)
	reader, _ := bucket(t, server, "b", ttl)
	seen := follow(t, reader)
	var stops []func() error
	for range 2 {
		from, _ := bucket(t, server, "a", ttl)
		to, _ := bucket(t, server, "b", ttl)
		began := time.Now()
		stops = append(stops, run(t, from, to, nil))
		t.Logf("in sync after %v", time.Since(began))
		seen.await(t, many)
	}
	if _, removed := seen.state(); removed > 0 {
		t.Errorf("%d entries were removed while two mirrors ran", removed)
	}
	for i, stop := range stops {
		if err := stop(); err != nil {
			t.Errorf("mirror %d ended with %v", i, err)
		}
	}
	seen.await(t, 0)
}

func TestKilledMirrorIsReplacedByTheOther(t *testing.T) {
	t.Parallel()
	const many = 50
	server := natstest.Run(t)
	worker, _ := bucket(t, server, "a", ttl)
	registerMany(t, worker, many)
	from, _ := bucket(t, server, "a", ttl)
	to, kill := bucket(t, server, "b", ttl)
	first := run(t, from, to, nil)
	reader, _ := bucket(t, server, "b", ttl)
	seen := follow(t, reader)
	mark := seen.mark()
	from, _ = bucket(t, server, "a", ttl)
	to, _ = bucket(t, server, "b", ttl)
	second := run(t, from, to, nil)

	kill.Close()
	began := time.Now()
	waittest.Eventually(t, "all entries are present, from the other mirror", func() bool {
		present, _ := seen.state()
		return present == many && seen.marked(mark) == 0
	})
	t.Logf("all present again %v after the kill, of a TTL of %v", time.Since(began), ttl)
	if err := first(); err == nil {
		t.Error("the killed mirror ended without an error")
	}
	if err := second(); err != nil {
		t.Errorf("the second mirror ended with %v", err)
	}
	seen.await(t, 0)
}

func TestServersComeAndGo(t *testing.T) {
	t.Parallel()
	const ttl = 5 * time.Second // a busy machine delays heartbeats by 2 s
	var log logtest.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	source, destination := natstest.Run(t), natstest.Run(t)
	worker, _ := bucket(t, source, "a", ttl)
	register := func(id uint64) *discovery.Registration {
		reg, err := worker.RegisterAs(t.Context(), id, endpoint("10.0.0.1:1"))
		if err != nil {
			t.Fatal(err)
		}
		return reg
	}
	first := register(1)
	from, _ := bucket(t, source, "a", ttl)
	to, _ := bucket(t, destination, "b", ttl)
	reader, _ := bucket(t, destination, "b", ttl)
	seen := follow(t, reader)
	stop := run(t, from, to, logger)
	seen.await(t, 1)

	// The source is stopped for longer than its TTL: the entries stay.
	source.Stop()
	<-time.After(ttl + time.Second)
	source.Start()
	register(2)
	seen.await(t, 2)

	// The target is stopped and loses its data, while the source changes.
	destination.Stop()
	destination.Wipe()
	if err := first.Unregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	for id := range uint64(50) {
		register(10 + id)
	}
	<-time.After(ttl + time.Second)
	destination.Start()
	waittest.Eventually(t, "the changes of the source arrive", func() bool {
		present, removed := seen.state()
		return present == 51 && removed > 0
	})
	if _, removed := seen.state(); removed != 1 {
		t.Errorf("%d removals, want 1", removed)
	}
	if n := log.Count("level=WARN"); n > 1 {
		t.Errorf("%d warnings of an outage, want one at most", n)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	seen.await(t, 0)
}

func TestUnknownFieldsInTheBucket(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	in := discovery.Instance{InstanceID: 1, Spec: endpoint("10.0.0.1:1")}
	value, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	in.Raw = append(bytes.TrimSuffix(value, []byte("}")), `,"more":[1]}`...)
	worker, _ := bucket(t, server, "a", ttl)
	if _, err := worker.RegisterInstance(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	from, _ := bucket(t, server, "a", ttl)
	to, _ := bucket(t, server, "b", ttl)
	run(t, from, to, nil)
	kv := natstest.KV(t, server.Connect(t), "b")
	waittest.Eventually(t, "the entry is in the bucket", func() bool {
		entry, err := kv.Get(t.Context(), "endpoints.dynamo.backend.generate.1")
		return err == nil && bytes.HasPrefix(entry.Value(), bytes.TrimSuffix(in.Raw, []byte("}"))) &&
			bytes.Contains(entry.Value(), []byte(`"dynplane_mirror":"`))
	})
}
