package natskv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

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

	shutdown sync.Once
	err      error // of Shutdown

	mu       sync.Mutex
	leases   map[string]*lease // by key
	watchers map[*watcher]struct{}
	closed   bool
	stop     context.CancelFunc // of the keep-alive; nil until the first lease
	stopped  chan struct{}
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
	js, err := jetstream.NewWithAPIPrefix(nc, o.APIPrefix,
		jetstream.WithPublishAsyncMaxPending(1<<20),
		// Without a timeout, unacknowledged heartbeats would accumulate.
		jetstream.WithPublishAsyncTimeout(ackWait(o.TTL)))
	if err != nil {
		return nil, fmt.Errorf("natskv: %w", err)
	}
	return &Store{
		nc: nc, js: js, opt: o, log: o.Logger,
		clock:    serverClock{now: o.Now},
		leases:   map[string]*lease{},
		watchers: map[*watcher]struct{}{},
	}, nil
}

// Shutdown implements discovery.Store. It closes the connection only if Dial
// made it. Concurrent and later calls wait for the first and return its error.
func (s *Store) Shutdown(ctx context.Context) error {
	s.shutdown.Do(func() {
		s.err = s.shutdownOnce(ctx)
		if s.owns {
			s.nc.Close()
		}
	})
	return s.err
}

func (s *Store) shutdownOnce(ctx context.Context) error {
	s.mu.Lock()
	stop := s.stop
	s.closed = true
	for w := range s.watchers {
		w.interrupt()
	}
	s.mu.Unlock()
	if stop != nil {
		stop()
		<-s.stopped
	}
	s.mu.Lock()
	leases := slices.Collect(maps.Values(s.leases))
	for _, l := range leases {
		l.end(discovery.ErrClosed)
	}
	s.mu.Unlock()
	err := each(leases, func(l *lease) error { return l.purge(ctx, l.seq) })
	s.js.CleanupPublisher()
	return err
}

// open ensures that the bucket exists and fits, unless this was done before.
func (s *Store) open(ctx context.Context) error {
	s.mu.Lock()
	opened, closed := s.stop != nil, s.closed
	s.mu.Unlock()
	if closed {
		return discovery.ErrClosed
	}
	if opened {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	return retry(ctx, func(ctx context.Context) error {
		err := s.ensure(ctx)
		if errors.Is(err, nats.ErrNoResponders) && s.nc.IsConnected() {
			err = s.noJetStream(err)
		}
		return err
	})
}

func (s *Store) noJetStream(err error) error {
	return fmt.Errorf("JetStream does not answer on %s; is it enabled (nats-server -js)?: %w", s.nc.ConnectedUrlRedacted(), err)
}

// ensure creates the stream unless it exists, checks that it can hold leases,
// and measures the clock offset.
func (s *Store) ensure(ctx context.Context) error {
	err := s.measure(ctx)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	// Create, never update: another process may have created it since.
	_, err = s.js.CreateStream(ctx, s.opt.streamConfig())
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("create bucket %q: %w", s.opt.Bucket, err)
	}
	if err == nil {
		s.log.Info("natskv: created the bucket", "bucket", s.opt.Bucket, "replicas", s.opt.Replicas)
	}
	return s.measure(ctx)
}

// measure requests the stream's info, which carries the server's time.
func (s *Store) measure(ctx context.Context) error {
	t0 := s.opt.Now()
	stream, err := s.js.Stream(ctx, s.opt.stream())
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	if first, off := s.clock.set(info.TimeStamp, t0, s.opt.Now()); first {
		if off.Abs() > clockWarning {
			s.log.Warn("natskv: the local clock differs from the server's; deadlines are in the server's time", "offset", off)
		}
		s.warnDifferences(info.Config)
	}
	return s.checkStream(info.Config)
}

func (s *Store) warnDifferences(have jetstream.StreamConfig) {
	if want := s.opt.streamConfig(); have.Replicas != want.Replicas || have.Storage != want.Storage {
		s.log.Warn("natskv: the bucket exists with other settings and is used as it is", "bucket", s.opt.Bucket,
			"replicas", have.Replicas, "wanted", want.Replicas, "storage", have.Storage.String(), "wanted_storage", want.Storage.String())
	}
}

func (s *Store) checkStream(have jetstream.StreamConfig) error {
	var missing []string
	need := func(ok bool, what string) {
		if !ok {
			missing = append(missing, what)
		}
	}
	need(have.AllowMsgSchedules, "scheduled messages (AllowMsgSchedules)")
	need(have.AllowMsgTTL, "message TTLs (AllowMsgTTL)")
	need(have.AllowRollup, "roll-ups (AllowRollup)")
	need(have.MaxMsgsPerSubject == 1, "a history of 1")
	need(have.MaxBytes <= 0 && have.MaxAge == 0, "no limits by bytes or age")
	for _, subject := range s.opt.streamConfig().Subjects {
		need(slices.Contains(have.Subjects, subject), "the subject "+subject)
	}
	if len(missing) > 0 {
		return fmt.Errorf("bucket %q on NATS server %s lacks %s: scheduled messages need a server of 2.12 or later, and a bucket made by other means must be removed (or name another bucket): %w",
			s.opt.Bucket, s.nc.ConnectedServerVersion(), strings.Join(missing, ", "), ErrBucket)
	}
	if err := s.opt.checkTTL(have.Replicas); err != nil {
		return fmt.Errorf("bucket %q: %w: %w", s.opt.Bucket, err, ErrBucket)
	}
	return nil
}
