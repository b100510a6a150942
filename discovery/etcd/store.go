package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

// Store implements [discovery.Store] on etcd. It is safe for concurrent use.
type Store struct {
	client      *clientv3.Client
	opt         Options
	log         *slog.Logger
	outage      outage
	connections connections
	locks       keyLocks
	granting    chan struct{} // of capacity one; held while an etcd lease is granted

	life      context.Context // until a Shutdown begins
	endLife   context.CancelFunc
	running   sync.WaitGroup // the keep-alive
	calls     sync.WaitGroup // that write; none begins after a Shutdown has
	removing  chan struct{}  // of capacity one; held by the Shutdown that removes the entries
	finished  bool           // a Shutdown has succeeded; guarded by removing
	connected bool           // client is open; guarded by removing

	mu        sync.Mutex
	leaseID   clientv3.LeaseID   // of all entries; NoLease until the first one
	acked     time.Time          // when the last request was sent that prolonged it
	leases    map[string]*lease  // by key
	orphans   map[string]*orphan // by key
	keepAlive bool               // the keep-alive has been started
	revoke    bool               // the lease must be revoked to exclude late writes
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
	s := newStore(o)
	if s.client, err = s.connect(ctx); err != nil {
		s.endLife()
		return nil, fmt.Errorf("etcd: connect to %s (ETCD_ENDPOINTS): %w", o.addresses(), cmp.Or(ctx.Err(), err))
	}
	if err := s.retry(ctx, s.probe); err != nil {
		s.endLife()
		_ = s.client.Close()
		return nil, fmt.Errorf("etcd: connect to %s (ETCD_ENDPOINTS): %w", o.addresses(), err)
	}
	return s, nil
}

func newStore(o Options) *Store {
	life, endLife := context.WithCancel(context.Background())
	return &Store{
		opt: o, log: o.Logger, outage: outage{log: o.Logger, watchers: map[*watcher]struct{}{}},
		locks: keyLocks{keys: map[string]*keyLock{}}, granting: make(chan struct{}, 1),
		life: life, endLife: endLife, removing: make(chan struct{}, 1), connected: true,
		leases: map[string]*lease{}, orphans: map[string]*orphan{},
	}
}

// connect returns a client of etcd. If there is a user, it requests a token.
func (s *Store) connect(ctx context.Context) (*clientv3.Client, error) {
	deadline, _ := ctx.Deadline()
	o := s.opt
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
		}), grpc.WithStatsHandler(&s.connections)},
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

// call begins a call that writes, which a Shutdown waits for. The call must end
// soon after life does.
func (s *Store) call() (done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return nil, discovery.ErrClosed
	}
	s.calls.Add(1)
	return s.calls.Done, nil
}

// isClosed reports whether a Shutdown has begun.
func (s *Store) isClosed() bool { return s.life.Err() != nil }

// Get implements discovery.Store. If the id has keys of both generations, it
// returns the value that was written last.
func (s *Store) Get(ctx context.Context, id discovery.ID) ([]byte, error) {
	key, other, err := s.keysOf(id)
	if err != nil {
		return nil, err
	}
	gets := []clientv3.Op{clientv3.OpGet(key)}
	if other != "" {
		gets = append(gets, clientv3.OpGet(other))
	}
	if s.isClosed() {
		return nil, discovery.ErrClosed
	}
	ctx, cancel := wait.Until(ctx, s.life)
	defer cancel()
	var newest *mvccpb.KeyValue
	err = s.retry(ctx, func(ctx context.Context) error {
		newest = nil
		resp, err := s.client.Txn(ctx).Then(gets...).Commit()
		if err != nil {
			return err
		}
		for _, r := range resp.Responses {
			for _, kv := range r.GetResponseRange().Kvs {
				if newest == nil || kv.ModRevision > newest.ModRevision {
					newest = kv
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, s.located(err)
	}
	if newest == nil {
		return nil, fmt.Errorf("key %s: %w", key, discovery.ErrNotFound)
	}
	return newest.Value, nil
}

// keysOf returns the key under which an id is written, and its key in the other
// generation of Dynamo, or "" if there is none.
func (s *Store) keysOf(id discovery.ID) (key, other string, err error) {
	bucket, err := discovery.DynamoBucket(id.Kind)
	if err != nil {
		return "", "", err
	}
	keys := map[discovery.WireFormat]string{}
	for _, wire := range []discovery.WireFormat{discovery.WireGen1, discovery.WireGen2} {
		k, kerr := discovery.DynamoKey(id, wire)
		if kerr == nil {
			keys[wire] = bucket + "/" + k
		} else if wire == s.opt.Wire {
			err = kerr
		}
	}
	if err != nil {
		return "", "", err
	}
	key = keys[s.opt.Wire]
	for wire, k := range keys {
		if wire != s.opt.Wire && k != key {
			other = k
		}
	}
	return key, other, nil
}
