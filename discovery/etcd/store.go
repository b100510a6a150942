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

// Store implements [discovery.Store] on etcd. It is safe for concurrent use.
type Store struct {
	client   *clientv3.Client
	opt      Options
	log      *slog.Logger
	outage   outage
	closed   chan struct{} // at the end of Shutdown
	granting chan struct{} // of capacity one; held while an etcd lease is granted

	mu       sync.Mutex
	leaseID  clientv3.LeaseID   // of all entries; NoLease until the first one
	leases   map[string]*lease  // by key
	pending  map[string]int     // registrations under way, by key
	shutdown bool               // since the beginning of Shutdown
	stop     context.CancelFunc // of the keep-alive; nil until the first lease
	stopped  chan struct{}
}

// Dial connects to etcd and returns a store whose Shutdown closes the connection.
// It fails if no endpoint answers within 10 s, or before ctx is done.
func Dial(ctx context.Context, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	s := &Store{
		opt: o, log: o.Logger, outage: outage{log: o.Logger, watchers: map[*watcher]struct{}{}},
		closed: make(chan struct{}), granting: make(chan struct{}, 1),
		leases: map[string]*lease{}, pending: map[string]int{},
	}
	if s.client, err = newClient(ctx, o); err != nil {
		return nil, fmt.Errorf("etcd: connect to %s (ETCD_ENDPOINTS): %w", o.addresses(), cmp.Or(ctx.Err(), err))
	}
	if err := s.retry(ctx, s.probe); err != nil {
		_ = s.client.Close()
		return nil, fmt.Errorf("etcd: connect to %s (ETCD_ENDPOINTS): %w", o.addresses(), err)
	}
	return s, nil
}

// newClient returns a client of etcd. If there is a user, it requests a token.
func newClient(ctx context.Context, o Options) (*clientv3.Client, error) {
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
		// These detect a dead connection. gRPC accepts no shorter interval.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		Logger:               zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			// With gRPC's defaults a client may wait two minutes after an
			// outage, until long after its leases have expired.
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		})},
	})
}

// probe sends one request through gRPC. The client's own calls would wait for a
// connection until ctx is done, and not return why there is none.
func (s *Store) probe(ctx context.Context) error {
	kv := etcdserverpb.NewKVClient(s.client.ActiveConnection())
	_, err := kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("v1/instances/"), KeysOnly: true})
	err = rpctypes.Error(err)
	if errors.Is(err, rpctypes.ErrPermissionDenied) {
		return nil // the server answers; later requests show what is permitted
	}
	return err
}

// Shutdown implements discovery.Store. It deletes the entries and lets the empty
// lease expire. If it revoked the lease, watchers that have just recovered from a
// fault could not distinguish that from the death of the owner, and would
// hold the removals.
func (s *Store) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	first, stop := !s.shutdown, s.stop
	s.shutdown = true
	s.mu.Unlock()
	if stop != nil {
		stop()
		<-s.stopped
	}
	if !first {
		return nil
	}
	s.mu.Lock()
	leases := slices.Collect(maps.Values(s.leases))
	for _, l := range leases {
		l.end(discovery.ErrClosed)
	}
	s.mu.Unlock()
	err := s.remove(ctx, leases...)
	if err != nil {
		err = fmt.Errorf("%w; the entries stay until their lease expires, within %v", s.located(err), s.opt.TTL)
	}
	close(s.closed)
	_ = s.client.Close() // its error is that of a request that no longer matters
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
