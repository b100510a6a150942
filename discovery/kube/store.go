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

// Store is the discovery.Store of one worker or reader.
type Store struct {
	options   Options
	namespace string
	http      *http.Client
	client    dynamic.Interface
	log       *slog.Logger

	// turn is held by who changes the document, also while it is written: one
	// write after the other. It guards leases and uid.
	turn   chan struct{}
	leases map[discovery.ID]*lease
	uid    types.UID   // of the object; empty unless there may be one
	own    atomic.Bool // something is registered

	mu       sync.Mutex // guards watchers, and closing
	watchers map[*watcher]struct{}
	closed   chan struct{}
}

// New makes a store. It does not talk to the API server yet, so what is missing
// there shows when something is registered or watched.
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
		config.QPS = -1 // the API server protects itself, and we write one by one
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
		options: o, namespace: namespace, http: httpClient, client: client, log: o.Logger,
		turn:     make(chan struct{}, 1),
		leases:   map[discovery.ID]*lease{},
		watchers: map[*watcher]struct{}{},
		closed:   make(chan struct{}),
	}, nil
}

// Shutdown removes this worker's object and ends all watches.
func (s *Store) Shutdown(ctx context.Context) error {
	if err := s.begin(ctx); errors.Is(err, discovery.ErrClosed) {
		return nil
	} else if err != nil {
		return err
	}
	defer s.end()
	former := s.leases
	err := s.write(ctx, map[discovery.ID]*lease{})
	for _, l := range former {
		l.finish(discovery.ErrClosed)
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
