package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/dynplane/dynplane/discovery"
)

// Store is the discovery.Store on etcd. It is safe for concurrent use.
type Store struct {
	client   *clientv3.Client
	opt      Options
	log      *slog.Logger
	closed   chan struct{} // by Shutdown
	granting chan struct{} // of capacity one: who asks for a lease

	mu      sync.Mutex
	lease   clientv3.LeaseID  // of all entries; NoLease until the first
	entries map[string]*entry // by key
	pending map[string]int    // registrations under way, by key
	shut    bool
	stop    context.CancelFunc // of the keep-alive; nil until the first entry
	stopped chan struct{}
}

// Open connects to etcd, with a connection that Shutdown closes. It fails when
// no endpoint answers within 10 s, or as long as ctx allows.
func Open(ctx context.Context, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s := &Store{
		opt: o, log: o.Logger,
		closed: make(chan struct{}), granting: make(chan struct{}, 1),
		entries: map[string]*entry{}, pending: map[string]int{},
	}
	if s.client, err = dial(ctx, o); err != nil {
		return nil, s.failed(cmp.Or(ctx.Err(), err))
	}
	if err := s.retry(ctx, s.probe); err != nil {
		_ = s.client.Close()
		return nil, err
	}
	return s, nil
}

// Shutdown implements discovery.Store. It deletes the entries and lets the
// empty lease run out: were it revoked, watchers that were just disturbed could
// not tell that from the death of the owner, and would wait before they
// believe it.
func (s *Store) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	first, stop := !s.shut, s.stop
	s.shut = true
	s.mu.Unlock()
	if stop != nil {
		stop()
		<-s.stopped
	}
	if !first {
		return nil
	}
	s.mu.Lock()
	entries := slices.Collect(maps.Values(s.entries))
	for _, e := range entries {
		e.end(discovery.ErrClosed)
	}
	s.mu.Unlock()
	err := s.remove(ctx, entries...)
	if err != nil {
		err = fmt.Errorf("%w; what is registered goes when its lease runs out, within %v", err, s.opt.TTL)
	}
	close(s.closed)
	_ = s.client.Close() // nothing is under way that matters
	return err
}

// dial makes the client. If there is a user, it asks for its token.
func dial(ctx context.Context, o Options) (*clientv3.Client, error) {
	deadline, _ := ctx.Deadline()
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, end)()
	return clientv3.New(clientv3.Config{
		Context:     life,
		Endpoints:   o.Endpoints,
		Username:    o.Username,
		Password:    o.Password,
		TLS:         o.TLS,
		DialTimeout: time.Until(deadline),
		// What a dead connection is noticed by. gRPC takes no less.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		Logger:               zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			// By default a client may wait two minutes after an outage, and
			// its leases have run out by then.
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		})},
	})
}

// probe asks for something. The client's own calls would wait for a connection
// until ctx is done, and not say why there is none.
func (s *Store) probe(ctx context.Context) error {
	kv := etcdserverpb.NewKVClient(s.client.ActiveConnection())
	_, err := kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("v1/instances/"), KeysOnly: true})
	err = rpctypes.Error(err)
	if errors.Is(err, rpctypes.ErrPermissionDenied) {
		return nil // there it is; what is allowed will show
	}
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
