package mirror_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/discovery/mirror"
)

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
