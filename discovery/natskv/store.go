package natskv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/natsconn"
)

// Store implements [discovery.Store] on a NATS JetStream KV bucket. It is safe
// for concurrent use. docs/protocol.md describes the bytes that it writes.
type Store struct {
	nc    *nats.Conn
	owns  bool // nc was dialled by Dial
	js    jetstream.JetStream
	opt   Options
	log   *slog.Logger
	clock serverClock
	keys  keyLocks

	life    context.Context // done since the beginning of Shutdown
	endLife context.CancelFunc
	opening chan struct{} // of capacity one; held while the streams are created or checked
	closing chan struct{} // of capacity one; held by Shutdown

	// Guarded by closing.
	stopped  time.Time // the keep-alive sends nothing any more
	finished bool      // everything is removed and released

	mu       sync.Mutex
	calls    sync.WaitGroup    // under way; no call is added once closed
	closed   bool              // since the beginning of Shutdown
	lost     error             // why the connection was closed for good; nil if it was not
	opened   time.Time         // when the streams were last found to exist and fit
	replicas int               // of the write stream
	first    uint64            // its first sequence, which identifies it
	leases   map[string]*lease // by key; those that have ended too, until they are removed
	orphans  map[*lease]struct{}
	keeper   *keeper // nil until the first lease
}

// Dial connects to NATS and returns a store that owns the connection: its
// Shutdown closes it. ctx bounds only the dialling.
func Dial(ctx context.Context, config natsconn.Config, o Options) (*Store, error) {
	nc, err := natsconn.Connect(ctx, config)
	if err != nil {
		return nil, err
	}
	s, err := New(nc, o)
	if err != nil {
		nc.Close()
		return nil, err
	}
	s.owns = true
	return s, nil
}

// New returns a store on a connection that the caller owns and closes, after
// Shutdown. It sends no request before the store is used. Register creates the
// bucket if it is missing; Watch treats a missing bucket as empty and waits
// for it.
//
// The connection must have been made with nats.ReconnectBufSize(-1), as package
// natsconn does, and is refused otherwise: a heartbeat that waits in a
// reconnect buffer until its deadline has passed would end the lease that it
// was to prolong.
func New(nc *nats.Conn, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("natskv: %w", err)
	}
	if nc.Opts.ReconnectBufSize >= 0 {
		return nil, errors.New("natskv: the NATS connection buffers messages while it is disconnected: make it with nats.ReconnectBufSize(-1), or with natsconn.Connect")
	}
	js, err := jetstream.NewWithAPIPrefix(nc, o.APIPrefix)
	if err != nil {
		return nil, fmt.Errorf("natskv: %w", err)
	}
	life, endLife := context.WithCancel(context.Background())
	return &Store{
		nc: nc, js: js, opt: o, log: o.Logger,
		clock: serverClock{now: o.Now},
		life:  life, endLife: endLife,
		opening: make(chan struct{}, 1), closing: make(chan struct{}, 1),
		replicas: o.Replicas,
		leases:   map[string]*lease{}, orphans: map[*lease]struct{}{},
	}, nil
}

// Shutdown implements discovery.Store. It blocks for one TTL at most: by then the
// entries that it could not remove have expired. It closes the connection only if
// Dial made it. A call during another one waits for it, and continues if it
// failed.
func (s *Store) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.endLife()
	select {
	case s.closing <- struct{}{}:
		defer func() { <-s.closing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.finished {
		return nil
	}
	s.calls.Wait() // they end with life
	if s.keeper != nil {
		s.keeper.stop()
	}
	if s.stopped.IsZero() {
		s.stopped = time.Now()
	}
	bound, cancel := context.WithTimeout(ctx, s.opt.TTL)
	defer cancel()
	err := s.removeAll(bound)
	if err == nil || time.Since(s.stopped) >= s.opt.TTL {
		s.finished = true
		if s.owns {
			s.nc.Close()
		}
	}
	return err
}

func (s *Store) isClustered() bool { return s.nc.ConnectedClusterName() != "" }

func (s *Store) removeAll(ctx context.Context) error {
	leases := s.registered()
	s.mu.Lock()
	leases = slices.AppendSeq(leases, maps.Keys(s.orphans))
	s.mu.Unlock()
	for _, l := range leases {
		l.End(discovery.ErrClosed)
	}
	var mu sync.Mutex
	var key string // of the last purge, which the bucket has last
	var last uint64
	err := each(leases, func(l *lease) error {
		purged, err := l.remove(ctx)
		mu.Lock()
		defer mu.Unlock()
		if purged > last {
			key, last = l.key, purged
		}
		return err
	})
	if last != 0 {
		s.awaitBucket(ctx, key, last)
	}
	return err
}

// registered returns the leases that are not removed.
func (s *Store) registered() []*lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.leases))
}

// concurrency bounds the requests of one kind that are under way at once.
const concurrency = 512

// each calls do for all leases, many at a time, and returns one of the errors
// and their number.
func each(leases []*lease, do func(*lease) error) error {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed int
		last   error
		next   = make(chan *lease)
	)
	for range min(concurrency, len(leases)) {
		wg.Go(func() {
			for l := range next {
				if err := do(l); err != nil {
					mu.Lock()
					failed, last = failed+1, err
					mu.Unlock()
				}
			}
		})
	}
	for _, l := range leases {
		next <- l
	}
	close(next)
	wg.Wait()
	if failed > 1 {
		return fmt.Errorf("%d of %d registrations: %w", failed, len(leases), last)
	}
	return last
}
