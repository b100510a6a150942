// Package etcd keeps registrations in etcd, where the workers of the Rust
// runtime keep theirs by default: under the same keys, with the same values,
// each attached to a lease of its owner.
//
//	options, err := etcd.FromEnv(os.LookupEnv)
//	if err != nil { ... }
//	store, err := etcd.Open(ctx, options)
//	if err != nil { ... }
//	client := discovery.NewClient(store, discovery.Options{})
//	defer client.Shutdown(ctx)
//
// A key is discovery.DynamoBucket and discovery.DynamoKey with a slash
// between and none in front; keys of both generations are read. All that one
// Store registers hangs on one lease, so that it goes together when the owner
// dies, within the TTL and the second that etcd takes.
//
// An open watch never shows an owner of this package as removed while it
// lives, across a restart of the server neither: see discovery.Store. A worker
// of the runtime whose lease is lost ends itself, so what it had registered
// stays gone.
package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dynplane/dynplane/discovery"
)

// Options are the settings of Open. The zero value is useful.
type Options struct {
	// Endpoints are the addresses of the members, http://host:port,
	// https://host:port or host:port; http://localhost:2379 if empty.
	Endpoints []string

	// Username and Password log in, where etcd asks for it. Either none or both.
	Username, Password string

	// TLS is for https endpoints and those without a scheme. It is refused
	// with http endpoints, which would go without it silently.
	TLS *tls.Config

	// TTL is how long registrations outlive their owner: whole seconds, zero
	// is 10 s. etcd raises what is below its own least (2 s by default).
	TTL time.Duration

	// Logger hears what is lost and found again; nil is silent.
	Logger *slog.Logger
}

const (
	defaultEndpoint = "http://localhost:2379"
	defaultTTL      = 10 * time.Second
	openTimeout     = 10 * time.Second // for all tries of a request
	requestTimeout  = 3 * time.Second  // for one
	retryWait       = 250 * time.Millisecond
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
	if len(o.Endpoints) == 0 {
		o.Endpoints = []string{defaultEndpoint}
	}
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s := &Store{
		opt: o, log: o.Logger,
		closed: make(chan struct{}), granting: make(chan struct{}, 1),
		entries: map[string]*entry{}, pending: map[string]int{},
	}
	var err error
	if s.client, err = dial(ctx, o); err != nil {
		return nil, s.failed(cmp.Or(ctx.Err(), err))
	}
	if err := s.retry(ctx, s.probe); err != nil {
		_ = s.client.Close()
		return nil, err
	}
	return s, nil
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

func (o *Options) validate() error {
	if o.TTL < time.Second || o.TTL%time.Second != 0 {
		return fmt.Errorf("TTL %v: want whole seconds, at least 1s", o.TTL)
	}
	if (o.Username == "") != (o.Password == "") {
		return errors.New("user name and password: want both or none")
	}
	schemes := map[string]bool{}
	for _, ep := range o.Endpoints {
		scheme, host, found := strings.Cut(ep, "://")
		if !found {
			scheme, host = "", ep
		}
		host, _, _ = strings.Cut(host, "/")
		_, port, err := net.SplitHostPort(host)
		if err != nil || port == "" || found && scheme != "http" && scheme != "https" {
			return fmt.Errorf("endpoint %q: want http://host:port, https://host:port or host:port", ep)
		}
		schemes[scheme] = true
	}
	if len(schemes) > 1 {
		return fmt.Errorf("endpoints %s: want the same scheme for all", strings.Join(o.Endpoints, ","))
	}
	if schemes["http"] && o.TLS != nil {
		return fmt.Errorf("endpoints %s with TLS settings: want https", strings.Join(o.Endpoints, ","))
	}
	return nil
}

// retry calls try until it succeeds, fails for good, or ctx or the time is
// over. Its errors name the endpoints.
func (s *Store) retry(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for {
		attempt, cancel := context.WithTimeout(ctx, requestTimeout)
		err := try(attempt)
		cancel()
		switch {
		case err == nil, errors.Is(err, discovery.ErrClosed):
			return err
		case s.isClosed():
			return discovery.ErrClosed
		case !isTransient(err):
			return s.failed(err)
		}
		if s.sleep(ctx, retryWait) != nil {
			if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
				err = fmt.Errorf("%w (last failure: %w)", cause, err)
			}
			return s.failed(err)
		}
	}
}

func (s *Store) failed(err error) error {
	return fmt.Errorf("etcd at %s: %w", strings.Join(s.opt.Endpoints, ","), err)
}

// errLeaseLost says that the lease was gone when a put came. It is transient.
var errLeaseLost = fmt.Errorf("the lease was lost: %w", context.DeadlineExceeded)

// isTransient says whether a request may go through later, as in an election
// or while the connection is away.
func isTransient(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, rpctypes.ErrTooManyRequests) {
		return true
	}
	code := status.Code(err)
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		code = e.Code()
	}
	return code == codes.Unavailable || code == codes.DeadlineExceeded
}

func (s *Store) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// sleep fails when ctx is done or the store is shut down.
func (s *Store) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return discovery.ErrClosed
	}
}
