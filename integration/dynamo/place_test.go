package dynamo

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/discovery/mirror"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// place is where both sides meet: the environment of each.
type place struct {
	version      string // of the runtime
	transport    string
	theirs, ours map[string]string

	etcd    *etcdServer      // if there is one
	nats    *natstest.Server // likewise
	brokers []*dynamotest.Broker
}

// newPlace returns a place with a store and a transport.
func newPlace(t *testing.T, version, store, transport string) *place {
	t.Helper()
	p := &place{version: version, transport: transport, theirs: make(map[string]string), ours: make(map[string]string)}
	p.set(map[string]string{"DYN_EVENT_PLANE_HOST": "127.0.0.1"})
	if version == dynamotest.Gen1 {
		p.set(map[string]string{"DYN_EVENT_PLANE_WIRE": "gen1"}) // for our own stores on their side, too
	}
	stores[store](t, p)
	transports[transport](t, p)
	return p
}

// set adds to the environment of both sides.
func (p *place) set(env map[string]string) {
	maps.Copy(p.theirs, env)
	maps.Copy(p.ours, env)
}

// stores prepare the environments for a store.
var stores = map[string]func(*testing.T, *place){
	"file": func(t *testing.T, p *place) {
		t.Helper()
		p.set(map[string]string{"DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": t.TempDir()})
	},
	"etcd": func(t *testing.T, p *place) {
		t.Helper()
		p.etcd = runEtcd(t)
		p.set(map[string]string{"DYN_DISCOVERY_BACKEND": "etcd", "ETCD_ENDPOINTS": "http://" + p.etcd.Line})
	},
	// Theirs are in files, ours in a bucket, with a mirror in each direction.
	"bucket": func(t *testing.T, p *place) {
		t.Helper()
		p.set(map[string]string{"DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": t.TempDir()})
		p.nats = natstest.Run(t)
		p.ours["DYN_DISCOVERY_BACKEND"], p.ours["NATS_SERVER"] = "nats", p.nats.URL()
		theirs, ours := openStore(t, p.theirs), openStore(t, p.ours)
		keepMirrored(t, theirs, ours)
		keepMirrored(t, ours, theirs)
	},
}

// transports prepare the environments for a transport. They come after the store.
var transports = map[string]func(*testing.T, *place){
	"direct": func(_ *testing.T, p *place) {
		p.set(map[string]string{"DYN_EVENT_PLANE": "zmq"})
	},
	"broker by URL": func(t *testing.T, p *place) {
		t.Helper()
		p.brokers = []*dynamotest.Broker{runBroker(t, nil)}
		p.set(map[string]string{"DYN_EVENT_PLANE": "zmq", "DYN_ZMQ_BROKER_URL": p.brokers[0].Line})
	},
	"two brokers": func(t *testing.T, p *place) {
		t.Helper()
		a, b := runBroker(t, nil), runBroker(t, nil)
		p.brokers = []*dynamotest.Broker{a, b}
		p.set(map[string]string{"DYN_EVENT_PLANE": "zmq",
			"DYN_ZMQ_BROKER_URL": "xsub=" + a.XSub + ";" + b.XSub + ",xpub=" + a.XPub + ";" + b.XPub})
	},
	"broker by discovery": func(t *testing.T, p *place) {
		t.Helper()
		p.brokers = []*dynamotest.Broker{runBroker(t, p.ours)}
		p.set(map[string]string{"DYN_EVENT_PLANE": "zmq", "DYN_ZMQ_BROKER_ENABLED": "true"})
		// The runtime looks for brokers once.
		awaitChannels(t, openStore(t, p.theirs), 1)
	},
	"NATS": func(t *testing.T, p *place) {
		t.Helper()
		if p.nats == nil {
			p.nats = natstest.Run(t)
		}
		p.set(map[string]string{"DYN_EVENT_PLANE": "nats", "DYN_EVENT_PLANE_CODEC": "msgpack", "NATS_SERVER": p.nats.URL()})
	},
}

// keepMirrored runs a mirror until the test ends.
func keepMirrored(t *testing.T, from, to *discovery.Client) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var inSync atomic.Bool
	options := mirror.Options{InSync: func(mirror.Counts) { inSync.Store(true) }, Logger: logger(t)}
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil { // it fails if a store does not answer at its start
			if err := mirror.Run(ctx, from, to, options); err != nil {
				t.Logf("mirror: %v", err)
				rest(t, 100*time.Millisecond)
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	waittest.Eventually(t, "the mirror is in sync", inSync.Load)
}

// retry repeats what fails: a server on a busy machine may not answer in time.
func retry[T any](t *testing.T, what string, call func() (T, error)) (result T) {
	t.Helper()
	waittest.Eventually(t, what, func() bool {
		var err error
		if result, err = call(); err != nil {
			t.Logf("%s: %v", what, err)
		}
		return err == nil
	})
	return result
}

func lookup(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { value, ok := env[name]; return value, ok }
}

func logger(t *testing.T) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// openStore opens a discovery client with the settings of an environment.
func openStore(t *testing.T, env map[string]string) *discovery.Client {
	t.Helper()
	client := retry(t, "open the store", func() (*discovery.Client, error) {
		return backend.Open(t.Context(), lookup(env), backend.Options{Logger: logger(t)})
	})
	t.Cleanup(func() { shutdown(t, client) })
	return client
}

// openOurs opens our side of a place.
func (p *place) openOurs(t *testing.T) (*discovery.Client, *eventplane.Client) {
	t.Helper()
	store := openStore(t, p.ours)
	cfg, err := eventplane.ConfigFromEnv(lookup(p.ours))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Logger = logger(t)
	plane, err := eventplane.New(cfg, store)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shutdown(t, plane) })
	return store, plane
}

// start starts a peer in the place.
func (p *place) start(t *testing.T, program string) *dynamotest.Peer {
	t.Helper()
	return dynamotest.Start(t, p.version, program, p.theirs)
}

// shutdown logs errors: a server on a busy machine may not answer in time, or be down.
func shutdown(t *testing.T, s interface{ Shutdown(context.Context) error }) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Logf("shutdown: %v", err)
	}
}

func list(t *testing.T, client *discovery.Client, q discovery.Query) []discovery.Instance {
	t.Helper()
	return retry(t, "list", func() ([]discovery.Instance, error) { return client.List(t.Context(), q) })
}

func register(t *testing.T, client *discovery.Client, id uint64, specs ...discovery.Spec) {
	t.Helper()
	for _, spec := range specs {
		retry(t, "register", func() (*discovery.Registration, error) { return client.RegisterAs(t.Context(), id, spec) })
	}
}

func publisher(t *testing.T, plane *eventplane.Client, scope discovery.Scope, topic string, options eventplane.PublisherOptions) *eventplane.Publisher {
	t.Helper()
	return retry(t, "open a publisher", func() (*eventplane.Publisher, error) {
		return plane.PublisherWithOptions(t.Context(), scope, topic, options)
	})
}

// awaitChannels waits until n event channels are registered.
func awaitChannels(t *testing.T, client *discovery.Client, n int) {
	t.Helper()
	waittest.Eventually(t, "the channels are registered", func() bool {
		return len(list(t, client, discovery.Query{Kind: discovery.KindEventChannel})) >= n
	})
}
