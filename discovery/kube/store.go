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
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/dynplane/dynplane/discovery"
)

// A write is tried again for this long while the API server does not answer, as
// often as this.
const (
	writePatience   = 10 * time.Second
	firstRetryDelay = 250 * time.Millisecond
	maxRetryDelay   = 2 * time.Second
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
	if o.Mode == "" {
		o.Mode = ModePod
	}
	if o.Mode != ModePod && o.Mode != ModeContainer {
		return nil, fmt.Errorf("kube: mode %q: want %s or %s", o.Mode, ModePod, ModeContainer)
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
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Store{
		options: o, namespace: namespace, http: httpClient, client: client, log: log,
		turn:     make(chan struct{}, 1),
		leases:   map[discovery.ID]*lease{},
		watchers: map[*watcher]struct{}{},
		closed:   make(chan struct{}),
	}, nil
}

// begin takes the turn to change the document.
func (s *Store) begin(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-s.closed:
		s.end()
		return discovery.ErrClosed
	default:
		return nil
	}
}

func (s *Store) end() { <-s.turn }

// Register puts the registration into the document of this worker. Readers see
// it while the pod is ready. One under the same id is replaced if it is ours,
// and else stays in its own worker's document.
func (s *Store) Register(ctx context.Context, id discovery.ID, value []byte) (discovery.Lease, error) {
	if err := s.options.canRegister(); err != nil {
		return nil, err
	}
	in, err := parseInstance(id, value)
	if err != nil {
		return nil, err
	}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.end()
	l := &lease{store: s, id: id, instance: in, done: make(chan struct{})}
	next := maps.Clone(s.leases)
	next[id] = l
	former := s.leases[id]
	if err := s.write(ctx, next); err != nil {
		return nil, err
	}
	if former != nil {
		former.finish(discovery.ErrTakenOver)
	}
	return l, nil
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

// write makes the object hold these registrations, and then takes them for the
// document. When it fails the document is what it was.
func (s *Store) write(ctx context.Context, leases map[discovery.ID]*lease) error {
	object := s.options.objectName()
	var err error
	switch {
	case len(leases) > 0:
		// Readers of this store look for it as soon as it is there.
		s.own.Store(true)
		err = s.retry(ctx, func() error { return s.apply(ctx, leases) })
	case s.uid != "":
		err = s.retry(ctx, func() error { return s.remove(ctx) })
	}
	if err == nil {
		s.leases = leases
	}
	s.own.Store(len(s.leases) > 0)
	if err != nil {
		s.wakeWatchers()
		return fmt.Errorf("write %s %s/%s: %w", workerKind, s.namespace, object, err)
	}
	return nil
}

func (s *Store) apply(ctx context.Context, leases map[discovery.ID]*lease) error {
	var doc discovery.Metadata
	for _, l := range leases {
		doc.Add(l.instance)
	}
	object, err := workerObject(s.options, doc)
	if err != nil {
		return err
	}
	written, err := s.client.Resource(workers()).Namespace(s.namespace).Patch(ctx, s.options.objectName(),
		types.ApplyPatchType, object, metav1.PatchOptions{FieldManager: fieldManager, Force: new(true)})
	if err != nil {
		return err
	}
	s.uid = written.GetUID()
	return nil
}

// remove deletes the object, unless it is another one by now.
func (s *Store) remove(ctx context.Context) error {
	err := s.client.Resource(workers()).Namespace(s.namespace).Delete(
		ctx, s.options.objectName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.uid}})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		s.uid = ""
		return nil
	}
	return err
}

// retry does a write again while the API server may yet take it.
func (s *Store) retry(ctx context.Context, write func() error) error {
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	for delay := firstRetryDelay; ; delay = min(2*delay, maxRetryDelay) {
		err := write()
		if err == nil || apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) ||
			apierrors.IsNotFound(err) || apierrors.IsRequestEntityTooLargeError(err) {
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return err
		}
	}
}

// lease is a registration of this store.
type lease struct {
	store    *Store
	id       discovery.ID
	instance discovery.Instance
	done     chan struct{} // closed when the lease has ended, after err is set
	err      error
}

// Unregister takes the registration out of the document.
func (l *lease) Unregister(ctx context.Context) error {
	s := l.store
	if err := s.begin(ctx); errors.Is(err, discovery.ErrClosed) {
		return nil
	} else if err != nil {
		return err
	}
	defer s.end()
	if s.leases[l.id] != l {
		return nil
	}
	next := maps.Clone(s.leases)
	delete(next, l.id)
	if err := s.write(ctx, next); err != nil {
		return err
	}
	l.finish(discovery.ErrClosed)
	return nil
}

// Wait blocks until the registration has ended.
func (l *lease) Wait(ctx context.Context) error {
	select {
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish is called once, by who holds the turn.
func (l *lease) finish(err error) {
	l.err = err
	close(l.done)
}
