package kube

import (
	"context"
	"errors"
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

	// writing is held while the document is changed and written, so that there
	// is one write at a time. It guards leases and uid.
	writing chan struct{}
	leases  map[discovery.ID]*lease
	uid     types.UID // of the object; empty if there is certainly none

	registered atomic.Bool // the document is not empty

	mu       sync.Mutex // guards watchers and the closing of closed
	watchers map[*watcher]struct{}
	closed   chan struct{}
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
	return &Store{
		opt: o, namespace: namespace, http: httpClient, client: client, log: o.Logger,
		writing:  make(chan struct{}, 1),
		leases:   map[discovery.ID]*lease{},
		watchers: map[*watcher]struct{}{},
		closed:   make(chan struct{}),
	}, nil
}

// Shutdown implements discovery.Store. It deletes this worker's object and ends
// all watches.
func (s *Store) Shutdown(ctx context.Context) error {
	if err := s.lockDocument(ctx); errors.Is(err, discovery.ErrClosed) {
		return nil
	} else if err != nil {
		return err
	}
	defer s.unlockDocument()
	former := s.leases
	err := s.write(ctx, map[discovery.ID]*lease{})
	for _, l := range former {
		l.End(discovery.ErrClosed)
	}
	s.mu.Lock()
	close(s.closed)
	watchers := slices.Collect(maps.Keys(s.watchers))
	s.mu.Unlock()
	for _, w := range watchers {
		_ = w.Close()
	}
	utilnet.CloseIdleConnectionsFor(s.http.Transport)
	return err
}

func (s *Store) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}
