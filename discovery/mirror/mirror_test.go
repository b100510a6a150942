package mirror_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/discovery/mirror"
	"github.com/dynplane/dynplane/integration/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.IgnoreServer()) }

var place = discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}

func endpoint(address string) discovery.Endpoint {
	return discovery.Endpoint{Scope: place, Transport: discovery.TCP(address)}
}

func model(name string) discovery.Model {
	return discovery.Model{Scope: place, Card: json.RawMessage(`{"display_name":"` + name + `"}`)}
}

func source(metadata string) discovery.EventSource {
	return discovery.EventSource{Scope: place, Topic: "kv-events", Metadata: json.RawMessage(metadata)}
}

// site is a registry and its owners.
type site struct {
	t        *testing.T
	registry *memory.Registry
	natives  *discovery.Client // of workers
	store    discovery.Store   // of natives
	mu       sync.Mutex
	written  int           // by mirrors: entries registered and removed
	updated  int           // those of written that were updates
	rejected int           // registrations by mirrors with an id above maxID
	refuse   error         // of all writes by mirrors; nil if they succeed
	maxID    uint64        // the greatest id that mirrors can register; 0 means any
	lag      time.Duration // of each change that mirrors receive
	checking func()        // called once a mirror has read the models of an endpoint
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, registry: memory.New()}
	s.store = s.registry.Open()
	s.natives = discovery.NewClient(s.store, discovery.Options{})
	return s
}

func (s *site) register(id uint64, spec discovery.Spec) *discovery.Registration {
	s.t.Helper()
	reg, err := s.natives.RegisterAs(s.t.Context(), id, spec)
	if err != nil {
		s.t.Fatal(err)
	}
	return reg
}

// write registers without the checks of a client, as another writer may.
func (s *site) write(id uint64, spec discovery.Spec, more string) discovery.Lease {
	s.t.Helper()
	value, err := json.Marshal(discovery.Instance{InstanceID: id, Spec: spec})
	if err != nil {
		s.t.Fatal(err)
	}
	value = append(bytes.TrimSuffix(value, []byte("}")), more+"}"...)
	lease, err := s.store.Register(s.t.Context(), spec.ID(id), value, discovery.RegisterOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return lease
}

// list returns the JSON of each registration.
func (s *site) list(kind discovery.Kind) (out []string) {
	s.t.Helper()
	found, err := s.natives.List(s.t.Context(), discovery.Query{Kind: kind})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, in := range found {
		out = append(out, string(in.Raw))
	}
	return out
}

// expect lists the entries, each of which must contain the wanted text.
func (s *site) expect(kind discovery.Kind, want ...string) {
	s.t.Helper()
	synctest.Wait()
	found := s.list(kind)
	if len(found) != len(want) {
		s.t.Fatalf("%d entries, want %d: %s", len(found), len(want), found)
	}
	for i, w := range want {
		if !strings.Contains(found[i], w) {
			s.t.Fatalf("entry %s, want %s in it", found[i], w)
		}
	}
}

func (s *site) expectWrites(want int) {
	s.t.Helper()
	// Long enough for every retry.
	<-time.After(time.Minute)
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.written != want {
		s.t.Errorf("mirrors wrote %d times, want %d", s.written, want)
	}
}

func (s *site) refuseMirrors(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = err
}

// mirrorStore is the store of a mirror. It counts writes, or refuses them.
type mirrorStore struct {
	discovery.Store
	site *site
}

func (m mirrorStore) Register(ctx context.Context, id discovery.ID, value []byte, o discovery.RegisterOptions) (discovery.Lease, error) {
	if m.site.maxID > 0 && id.Instance > m.site.maxID {
		m.site.mu.Lock()
		defer m.site.mu.Unlock()
		m.site.rejected++
		return nil, fmt.Errorf("%w: id %d", discovery.ErrUnstorable, id.Instance)
	}
	if err := m.site.count(); err != nil {
		return nil, err
	}
	lease, err := m.Store.Register(ctx, id, value, o)
	return mirrorLease{lease, m.site}, err
}

func (m mirrorStore) Watch(ctx context.Context, q discovery.Query) (discovery.Watcher, error) {
	w, err := m.Store.Watch(ctx, q)
	if m.site.checking != nil && q.Scope == place {
		m.site.checking()
	}
	return laggingWatcher{w, m.site.lag}, err
}

type laggingWatcher struct {
	discovery.Watcher
	lag time.Duration
}

func (w laggingWatcher) Next(ctx context.Context) (discovery.Change, error) {
	ch, err := w.Watcher.Next(ctx)
	// Without a timer if there is no lag: in go1.26.8, timers of one synctest bubble
	// that fire at once on several threads crash the race detector.
	if err == nil && w.lag > 0 {
		<-time.After(w.lag)
	}
	return ch, err
}

type mirrorLease struct {
	discovery.Lease
	site *site
}

func (l mirrorLease) Update(ctx context.Context, value []byte) error {
	if err := l.site.count(); err != nil {
		return err
	}
	l.site.mu.Lock()
	l.site.updated++
	l.site.mu.Unlock()
	return l.Lease.Update(ctx, value)
}

func (l mirrorLease) Unregister(ctx context.Context) error {
	if err := l.site.count(); err != nil {
		return err
	}
	return l.Lease.Unregister(ctx)
}

func (s *site) count() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse == nil {
		s.written++
	}
	return s.refuse
}

// running is a mirror that runs until it is stopped.
type running struct {
	t        *testing.T
	from, to *discovery.Client
	cancel   context.CancelFunc
	ended    chan error
	counts   *mirror.Counts
	log      bytes.Buffer
}

func start(from, to *site, queries ...discovery.Query) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{
		t: from.t, cancel: cancel, ended: make(chan error, 1),
		from: discovery.NewClient(from.registry.Open(), discovery.Options{}),
		to:   discovery.NewClient(mirrorStore{to.registry.Open(), to}, discovery.Options{}),
	}
	go func() {
		r.ended <- mirror.Run(ctx, r.from, r.to, mirror.Options{
			Queries: queries,
			InSync:  func(c mirror.Counts) { r.counts = &c },
			Logger:  slog.New(slog.NewTextHandler(&r.log, nil)),
		})
	}()
	from.t.Cleanup(r.stop)
	return r
}

// stop ends the mirror as its context does.
func (r *running) stop() {
	r.t.Helper()
	if r.ended == nil {
		return
	}
	r.cancel()
	if err := <-r.ended; err != nil {
		r.t.Errorf("the mirror ended with %v", err)
	}
	r.ended = nil
}

func (r *running) expectWarnings(want int) {
	r.t.Helper()
	synctest.Wait()
	if got := strings.Count(r.log.String(), "level=WARN"); got != want {
		r.t.Errorf("%d warnings, want %d:\n%s", got, want, r.log.String())
	}
}

func TestMirror(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		run  func(a, b *site)
	}{
		{"follows", follows},
		{"keeps unknown fields", keepsUnknownFields},
		{"writes both generations", writesBothGenerations},
		{"queries select", queriesSelect},
		{"in sync", inSync},
		{"native is left alone", nativeIsLeftAlone},
		{"native takes over", nativeTakesOver},
		{"both ways", bothWays},
		{"ring of three", ring},
		{"second stands by", secondStandsBy},
		{"two start at once", twoStartAtOnce},
		{"target's watch lags", targetLags},
		{"model conflict", modelConflict},
		{"model conflict that ends while it is found", modelConflictEnds},
		{"new value during a conflict", newValueDuringConflict},
		{"models in conflict with each other", modelsInConflict},
		{"changed model conflicts", changedModelConflicts},
		{"source changes", sourceChanges},
		{"target refuses", targetRefuses},
		{"target cannot hold some", targetCannotHoldSome},
		{"unregisters at the end", unregistersAtTheEnd},
		{"ends with its client", endsWithItsClient},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { c.run(newSite(t), newSite(t)) })
		})
	}
}

func follows(a, b *site) {
	first := a.register(1, endpoint("10.0.0.1:1"))
	start(a, b)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
	a.register(2, endpoint("10.0.0.2:2"))
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`, `10.0.0.2:2`)
	a.register(2, endpoint("10.0.0.2:3"))
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`, `10.0.0.2:3`)
	_ = first.Unregister(context.Background())
	b.expect(discovery.KindEndpoint, `10.0.0.2:3`)
	b.expectWrites(4)
	if b.updated != 1 {
		b.t.Errorf("%d updates, want one for the changed value", b.updated)
	}
}

func keepsUnknownFields(a, b *site) {
	a.write(1, endpoint("10.0.0.1:1"), `, "new": {"deep":[1.0]} `)
	start(a, b)
	b.expect(discovery.KindEndpoint, `, "new": {"deep":[1.0]} ,"dynplane_mirror":"`)
	b.expectWrites(1)
}

func writesBothGenerations(a, b *site) {
	t := a.t
	channel := discovery.EventChannel{Scope: place, Topic: "kv-events", Transport: discovery.ZMQ{Endpoint: "tcp://10.0.0.1:1"}}
	component := channel
	component.Scope.Endpoint = ""
	const rest = `"topic":"kv-events","transport":{"kind":"Zmq","config":{"endpoint":"tcp://10.0.0.1:1"}},"instance_id":`
	for id, value := range map[discovery.ID]string{
		component.ID(1): `{"type":"EventChannel","namespace":"dynamo","component":"backend",` + rest + `1}`,
		channel.ID(2):   `{"type":"EventChannel","scope":{"kind":"endpoint","endpoint":{"namespace":"dynamo","component":"backend","name":"generate"}},` + rest + `2}`,
	} {
		if _, err := a.store.Register(t.Context(), id, []byte(value), discovery.RegisterOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	start(a, b)
	b.expect(discovery.KindEventChannel,
		`,"scope":{"kind":"component","namespace":"dynamo","component":"backend"}}`,
		`,"namespace":"dynamo","component":"backend"}`)
}

func queriesSelect(a, b *site) {
	a.register(1, endpoint("10.0.0.1:1"))
	a.register(1, model("llama"))
	elsewhere := endpoint("10.0.0.2:2")
	elsewhere.Scope.Namespace = "other"
	a.register(2, elsewhere)
	start(a, b, discovery.Query{Kind: discovery.KindEndpoint, Scope: discovery.Scope{Namespace: "other"}})
	b.expect(discovery.KindEndpoint, `10.0.0.2:2`)
	b.expect(discovery.KindModel)
}

func inSync(a, b *site) {
	t := a.t
	for id := range uint64(50) {
		a.register(id, endpoint("10.0.0.1:1"))
		a.register(id, model("llama"))
	}
	for id := range uint64(20) {
		b.register(id, endpoint("10.0.0.2:1"))
	}
	other := model("qwen")
	other.Scope.Namespace = "other"
	b.register(7, other)
	a.write(8, model("mistral"), "") // in conflict with llama
	other.Card = json.RawMessage(`{"display_name":"gemma"}`)
	a.register(9, other)
	r := start(a, b)
	synctest.Wait()
	if r.counts == nil {
		t.Fatal("the mirror is not in sync")
	}
	// Of llama and mistral at one endpoint, the second one fails.
	got := *r.counts
	if got.StandBy != 20 || got.Mirrored+got.Failing != 81 || got.Failing < 2 {
		t.Errorf("counts %+v", got)
	}
}

func nativeIsLeftAlone(a, b *site) {
	a.register(1, endpoint("10.0.0.1:1"))
	native := b.register(1, endpoint("10.0.0.1:2"))
	start(a, b)
	b.expect(discovery.KindEndpoint, `10.0.0.1:2`)
	a.register(1, endpoint("10.0.0.1:3"))
	b.expect(discovery.KindEndpoint, `10.0.0.1:2`)
	_ = native.Unregister(context.Background())
	b.expect(discovery.KindEndpoint, `10.0.0.1:3`)
	b.expectWrites(1)
}

func nativeTakesOver(a, b *site) {
	t := a.t
	in := a.register(1, endpoint("10.0.0.1:1"))
	start(a, b)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
	native := b.register(1, endpoint("10.0.0.1:2"))
	b.expectWrites(1)
	a.register(1, endpoint("10.0.0.1:3")) // no longer held by the mirror
	b.expectWrites(1)
	b.expect(discovery.KindEndpoint, `10.0.0.1:2`)
	held, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := native.Wait(held); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the native registration ended: %v", err)
	}
	_ = native.Unregister(context.Background())
	b.expectWrites(2)
	b.expect(discovery.KindEndpoint, `10.0.0.1:3`)

	// A takeover that ends before the watch delivers it.
	_ = b.register(1, endpoint("10.0.0.1:2")).Unregister(context.Background())
	b.expectWrites(3)
	b.expect(discovery.KindEndpoint, `10.0.0.1:3`)
	_ = in.Unregister(context.Background()) // of a former value: no effect
	b.expectWrites(3)
}

func bothWays(a, b *site) {
	a.register(1, endpoint("10.0.0.1:1"))
	gone := b.register(2, endpoint("10.0.0.2:1"))
	start(a, b)
	start(b, a)
	a.expect(discovery.KindEndpoint, `10.0.0.1:1`, `10.0.0.2:1`)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`, `10.0.0.2:1`)
	a.expectWrites(1)
	b.expectWrites(1)
	_ = gone.Unregister(context.Background())
	a.expect(discovery.KindEndpoint, `10.0.0.1:1`)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
	a.expectWrites(2)
	b.expectWrites(1)
}

func ring(a, b *site) {
	t := a.t
	c := newSite(t)
	gone := a.register(1, endpoint("10.0.0.1:1"))
	start(a, b)
	start(b, c)
	start(c, a)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
	c.expect(discovery.KindEndpoint) // through one mirror only
	b.expectWrites(1)
	c.expectWrites(0)
	a.expectWrites(0)
	_ = gone.Unregister(context.Background())
	b.expect(discovery.KindEndpoint)
}

func secondStandsBy(a, b *site) {
	a.register(1, endpoint("10.0.0.1:1"))
	first := start(a, b)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
	start(a, b)
	b.expectWrites(1)
	first.stop()
	b.expectWrites(3)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
}

func twoStartAtOnce(a, b *site) {
	t := a.t
	for id := range uint64(300) {
		a.register(id, endpoint("10.0.0.1:1"))
	}
	first, second := start(a, b), start(a, b)
	<-time.After(time.Minute)
	b.mu.Lock()
	settled := b.written
	b.mu.Unlock()
	if settled > 600 {
		t.Errorf("%d writes", settled)
	}
	b.expectWrites(settled)
	if n := len(b.list(discovery.KindEndpoint)); n != 300 {
		t.Errorf("%d entries", n)
	}
	first.stop()
	<-time.After(time.Minute)
	if n := len(b.list(discovery.KindEndpoint)); n != 300 {
		t.Errorf("%d entries after one mirror has gone", n)
	}
	second.stop()
	b.expect(discovery.KindEndpoint)
}

func targetLags(a, b *site) {
	b.lag = time.Second
	a.register(1, endpoint("10.0.0.1:1"))
	first := start(a, b)
	start(a, b)
	b.expectWrites(2) // one of each mirror; the second takes over
	first.stop()
	<-time.After(time.Minute)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
}

func modelConflictEnds(a, b *site) {
	a.register(1, model("llama"))
	native := b.register(2, model("qwen"))
	b.checking = sync.OnceFunc(func() {
		_ = native.Unregister(context.Background())
		<-time.After(time.Second) // the mirror receives the removal
	})
	start(a, b)
	<-time.After(time.Minute)
	b.expect(discovery.KindModel, `llama`)
}

// targetCannotHoldSome has ids that the target cannot hold among others, such as ids
// above 53 bits in Kubernetes.
func targetCannotHoldSome(a, b *site) {
	t := a.t
	b.maxID = 1<<53 - 1
	endpoint := func(address string) discovery.Spec {
		return discovery.Endpoint{Scope: place, Transport: discovery.TCP(address)}
	}
	for _, id := range []uint64{1, 1 << 53, 1<<64 - 1, 2} {
		a.register(id, endpoint("x"))
	}
	r := start(a, b)
	b.expectWrites(2)
	b.expect(discovery.KindEndpoint, `"instance_id":1,`, `"instance_id":2,`)
	r.expectWarnings(2)
	if r.counts == nil || r.counts.Mirrored != 2 || r.counts.Failing != 2 {
		t.Errorf("counts %+v, want 2 mirrored and 2 failing", r.counts)
	}
	// A change nearby does not help; a change of the source is tried.
	b.register(3, endpoint("y"))
	b.expectWrites(2)
	a.register(1<<53, endpoint("z"))
	b.expectWrites(2)
	r.expectWarnings(2)
	if b.rejected != 3 {
		t.Errorf("%d attempts to register what the target cannot hold, want 3", b.rejected)
	}
	a.register(4, endpoint("x"))
	b.expectWrites(3)
}

// newValueDuringConflict changes the source while the mirror finds its former value
// in conflict. The new value must be registered without a change in the target.
func newValueDuringConflict(a, b *site) {
	a.write(1, model("llama"), "")
	b.register(2, model("qwen"))
	b.checking = sync.OnceFunc(func() {
		a.write(1, model("qwen"), "")
		<-time.After(time.Second) // the mirror receives it
	})
	start(a, b)
	<-time.After(time.Minute)
	b.expect(discovery.KindModel, `dynplane_mirror`, `qwen`)
}

func modelConflict(a, b *site) {
	a.register(1, model("llama"))
	native := b.register(2, model("qwen"))
	r := start(a, b)
	b.expect(discovery.KindModel, `qwen`)
	another := b.register(3, model("qwen")) // a change, after which the mirror retries
	b.expectWrites(0)
	r.expectWarnings(1)
	_ = another.Unregister(context.Background())
	_ = native.Unregister(context.Background())
	b.expectWrites(1)
	b.expect(discovery.KindModel, `llama`)
	r.expectWarnings(1)
}

func modelsInConflict(a, b *site) {
	t := a.t
	llama := a.write(1, model("llama"), "")
	qwen := a.write(2, model("qwen"), "")
	start(a, b)
	<-time.After(time.Minute)
	found := b.list(discovery.KindModel)
	if len(found) != 1 {
		t.Fatalf("%d models, want one of two: %s", len(found), found)
	}
	there, want := llama, "qwen"
	if strings.Contains(found[0], "qwen") {
		there, want = qwen, "llama"
	}
	_ = there.Unregister(context.Background())
	<-time.After(time.Minute)
	b.expect(discovery.KindModel, want)
}

func changedModelConflicts(a, b *site) {
	a.register(1, model("llama"))
	native := b.register(2, model("llama"))
	start(a, b)
	b.expect(discovery.KindModel, `dynplane_mirror`, `llama`)
	a.register(1, model("qwen"))
	b.expect(discovery.KindModel, `llama`)
	b.expectWrites(2)
	_ = native.Unregister(context.Background())
	<-time.After(time.Minute)
	b.expect(discovery.KindModel, `qwen`)
}

func sourceChanges(a, b *site) {
	a.register(1, source(`{"worker":1}`))
	r := start(a, b)
	b.expect(discovery.KindEventSource, `{"worker":1}`)
	a.write(1, source(`{"worker":2}`), "")
	b.expect(discovery.KindEventSource, `{"worker":2}`)
	b.expectWrites(3)
	r.expectWarnings(0)
}

func targetRefuses(a, b *site) {
	gone := a.register(1, endpoint("10.0.0.1:1"))
	r := start(a, b)
	b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
	b.refuseMirrors(errors.New("away"))
	_ = gone.Unregister(context.Background())
	for id := range uint64(100) {
		a.register(2+id, model("llama"))
	}
	b.expectWrites(1)
	r.expectWarnings(1)
	b.refuseMirrors(nil)
	b.expectWrites(102)
	b.expect(discovery.KindEndpoint)
	r.expectWarnings(1)
}

func unregistersAtTheEnd(a, b *site) {
	t := a.t
	for id := range uint64(100) {
		a.register(id, endpoint("10.0.0.1:1"))
	}
	native := b.register(7, endpoint("10.0.0.1:2"))
	r := start(a, b)
	b.expectWrites(99)
	r.stop()
	b.expect(discovery.KindEndpoint, `10.0.0.1:2`)
	_ = native.Unregister(context.Background())

	r = start(a, b)
	b.expectWrites(99 + 99 + 100)
	b.refuseMirrors(errors.New("away"))
	r.cancel()
	err := <-r.ended
	r.ended = nil
	if err == nil || !strings.Contains(err.Error(), "100 entries") {
		t.Errorf("error %v, want one about 100 entries", err)
	}
}

func endsWithItsClient(a, b *site) {
	t := a.t
	a.register(1, endpoint("10.0.0.1:1"))
	for _, side := range []string{"source", "target"} {
		r := start(a, b)
		b.expect(discovery.KindEndpoint, `10.0.0.1:1`)
		client := r.from
		if side == "target" {
			client = r.to
		}
		if err := client.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := <-r.ended
		r.ended = nil
		if !errors.Is(err, discovery.ErrClosed) || !strings.HasPrefix(err.Error(), "mirror: "+side) {
			t.Errorf("error %v, want one about the %s", err, side)
		}
		b.expect(discovery.KindEndpoint)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	client := discovery.NewClient(memory.New().Open(), discovery.Options{})
	if err := mirror.Run(t.Context(), client, client, mirror.Options{}); !errors.Is(err, mirror.ErrSame) {
		t.Errorf("error %v, want ErrSame", err)
	}
}
