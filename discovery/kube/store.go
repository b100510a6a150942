package kube

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/dynplane/dynplane/discovery"
)

// Store implements [discovery.Store] for one worker or reader. It is safe for
// concurrent use.
type Store struct {
	opt       Options
	namespace string
	http      *http.Client
	client    dynamic.Interface
	log       *slog.Logger

	life    context.Context // until a Shutdown begins
	endLife context.CancelFunc
	running sync.WaitGroup // the goroutine that repairs the object

	// writing is held while the document is changed and written, so that there
	// is one write at a time. It guards the following.
	writing  chan struct{}
	doc      map[discovery.ID]discovery.Instance // what the object must contain
	leases   map[discovery.ID]*lease             // of the same ids
	leaving  map[*lease]struct{}                 // that have ended, and that the object may still contain
	uid      types.UID                           // of the object; empty if it is not known
	dirty    bool                                // the object may contain something else than doc
	mending  bool                                // the goroutine that repairs the object runs
	finished bool                                // a Shutdown has succeeded

	registered atomic.Bool // the document is not empty

	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

// New returns a store. It sends no request before the store is used: a missing
// definition or role is reported when something is registered or watched.
func New(o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("kube: %w", err)
	}
	config, namespace, err := o.connection()
	if err != nil {
		return nil, fmt.Errorf("kube: %w", err)
	}
	config.WarningHandler = rest.NoWarnings{}
	if config.QPS == 0 {
		config.QPS = -1 // the API server limits rates itself, and there is one write at a time
	}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("kube: %w", err)
	}
	client, err := dynamic.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("kube: %w", err)
	}
	s := &Store{
		opt: o, namespace: namespace, http: httpClient, client: client, log: o.Logger,
		writing: make(chan struct{}, 1),
		doc:     map[discovery.ID]discovery.Instance{},
		leases:  map[discovery.ID]*lease{}, leaving: map[*lease]struct{}{},
		watchers: map[*watcher]struct{}{},
	}
	s.life, s.endLife = context.WithCancel(context.Background())
	return s, nil
}

// Shutdown implements discovery.Store. It ends all calls and watches, and deletes
// this worker's object. It sends no request if nothing has been registered.
func (s *Store) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.endLife() // under the lock, so that no watch begins afterwards
	watchers := slices.Collect(maps.Keys(s.watchers))
	s.mu.Unlock()
	for _, w := range watchers {
		_ = w.Close()
	}
	select {
	case s.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer s.unlockDocument()
	if s.finished {
		return nil
	}
	s.running.Wait()
	s.endLeases(discovery.ErrClosed)
	s.dirty = s.dirty || len(s.doc) > 0
	s.doc = map[discovery.ID]discovery.Instance{}
	_, err := s.retry(ctx, attached, s.flush)
	utilnet.CloseIdleConnectionsFor(s.http.Transport)
	if err != nil {
		return s.located(err)
	}
	s.finished = true
	return nil
}

// endLeases ends all leases. It requires the document's lock.
func (s *Store) endLeases(cause error) {
	for id, l := range s.leases {
		l.End(cause)
		s.leaving[l] = struct{}{}
		delete(s.leases, id)
	}
}

// isClosed reports whether a Shutdown has begun.
func (s *Store) isClosed() bool { return s.life.Err() != nil }

// closedOr returns ErrClosed for the error of a call that a Shutdown has ended.
func (s *Store) closedOr(err error) error {
	if err != nil && s.isClosed() {
		return discovery.ErrClosed
	}
	return err
}
