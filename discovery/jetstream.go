package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// JetStreamOptions are the settings of NewJetStream. The zero value is useful.
type JetStreamOptions struct {
	// Bucket names the KV bucket; "dynplane" if empty.
	Bucket string

	// TTL is how long a registration outlives its owner: whole seconds, at
	// least 1 s, and at least 10 s in a bucket with several replicas, where an
	// election takes seconds. Zero is 10 s.
	TTL time.Duration

	// Replicas is 1 (zero is that), 3 or 5, and Memory says that the bucket is
	// kept in memory. Both apply when the bucket is made; one that is there is
	// used as it is, with a warning.
	Replicas int
	Memory   bool

	// Logger hears what is lost and found again; nil is silent.
	Logger *slog.Logger

	// Now is the local clock; nil is time.Now. What counts is the server's:
	// the offset between the two is measured.
	Now func() time.Time
}

// ErrBucket is wrapped by the error that refuses a bucket or a server which
// cannot hold leases; the text says what is missing.
var ErrBucket = errors.New("the bucket cannot hold leases")

const (
	defaultBucket  = "dynplane"
	defaultTTL     = 10 * time.Second
	replicatedTTL  = 10 * time.Second
	markerTTL      = "1h"
	beatsPerTTL    = 5 // with three, a stalled leader of a replicated stream costs living owners their leases
	failingBeat    = 250 * time.Millisecond
	retryWait      = 250 * time.Millisecond
	requestTimeout = 5 * time.Second
	openTimeout    = 10 * time.Second
)

// JetStream is the Store on a NATS JetStream KV bucket. What it writes there is
// described in docs/protocol.md, and docs/decisions.md says why.
type JetStream struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	opt   JetStreamOptions
	log   *slog.Logger
	clock serverClock

	mu       sync.Mutex
	leases   map[string]*jetStreamLease // by key
	watchers map[*jetStreamWatcher]struct{}
	closed   bool
	stop     context.CancelFunc // of the keep-alive; nil until the first lease
	stopped  chan struct{}
}

// NewJetStream makes a store on a connection that the caller keeps and closes.
// The connection must not buffer while it is disconnected (a heartbeat that is
// sent late would end the lease that it was to prolong), so it is refused
// unless it was made with nats.ReconnectBufSize(-1); package natsconn makes it
// so. Nothing is asked of the server before the first use. Whoever registers
// makes the bucket; a reader takes a missing one as empty and waits for it.
func NewJetStream(nc *nats.Conn, o JetStreamOptions) (*JetStream, error) {
	if o.Bucket == "" {
		o.Bucket = defaultBucket
	}
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	if nc.Opts.ReconnectBufSize >= 0 {
		return nil, errors.New("discovery: the NATS connection buffers while it is disconnected: make it with nats.ReconnectBufSize(-1), or with natsconn.Connect")
	}
	// Without the timeout, heartbeats that nobody answers would pile up.
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1<<20), jetstream.WithPublishAsyncTimeout(ackWait(o.TTL)))
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	return &JetStream{
		nc: nc, js: js, opt: o, log: orSilent(o.Logger),
		clock:    serverClock{now: o.Now},
		leases:   map[string]*jetStreamLease{},
		watchers: map[*jetStreamWatcher]struct{}{},
	}, nil
}

func (o *JetStreamOptions) validate() error {
	if strings.Trim(o.Bucket, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return fmt.Errorf("bucket %q: want letters, digits, _ and - alone", o.Bucket)
	}
	if o.TTL < time.Second || o.TTL%time.Second != 0 {
		return fmt.Errorf("TTL %v: want whole seconds, at least 1s", o.TTL)
	}
	if o.Replicas != 1 && o.Replicas != 3 && o.Replicas != 5 {
		return fmt.Errorf("%d replicas: want 1, 3 or 5", o.Replicas)
	}
	return o.checkTTL(o.Replicas)
}

func (o *JetStreamOptions) checkTTL(replicas int) error {
	if replicas > 1 && o.TTL < replicatedTTL {
		return fmt.Errorf("TTL %v with %d replicas: want at least %v, since an election of a leader takes seconds", o.TTL, replicas, replicatedTTL)
	}
	return nil
}

func (s *JetStream) stream() string                 { return "KV_" + s.opt.Bucket }
func (s *JetStream) entrySubject(key string) string { return "$KV." + s.opt.Bucket + "." + key }
func (s *JetStream) leaseSubject(key string) string {
	return "dynplane.lease." + s.opt.Bucket + "." + key
}

// streamConfig is the stream of the bucket. The KV API cannot set all of it.
func (s *JetStream) streamConfig() jetstream.StreamConfig {
	storage := jetstream.FileStorage
	if s.opt.Memory {
		storage = jetstream.MemoryStorage
	}
	return jetstream.StreamConfig{
		Name:              s.stream(),
		Subjects:          []string{s.entrySubject(">"), s.leaseSubject(">")},
		MaxMsgsPerSubject: 1,
		Discard:           jetstream.DiscardOld,
		Storage:           storage,
		Replicas:          s.opt.Replicas,
		AllowMsgTTL:       true,
		AllowMsgSchedules: true,
		AllowDirect:       true,
		AllowRollup:       true,
		DenyDelete:        true,
	}
}

// ensure makes the stream unless it is there, looks whether it can hold
// leases, and measures the clock by the way.
func (s *JetStream) ensure(ctx context.Context) error {
	err := s.measure(ctx)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	// Create, never update: somebody else may have made it by now.
	_, err = s.js.CreateStream(ctx, s.streamConfig())
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("create bucket %q: %w", s.opt.Bucket, err)
	}
	if err == nil {
		s.log.Info("discovery: made the bucket", "bucket", s.opt.Bucket, "replicas", s.opt.Replicas)
	}
	return s.measure(ctx)
}

// measure asks for the stream's info and takes the server's clock from it.
func (s *JetStream) measure(ctx context.Context) error {
	t0 := s.opt.Now()
	stream, err := s.js.Stream(ctx, s.stream())
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	if first, off := s.clock.set(info.TimeStamp, t0, s.opt.Now()); first {
		if off.Abs() > clockWarning {
			s.log.Warn("discovery: the local clock is off the server's; leases follow the server's", "offset", off)
		}
		s.warnDifferences(info.Config)
	}
	return s.checkStream(info.Config)
}

func (s *JetStream) warnDifferences(have jetstream.StreamConfig) {
	if want := s.streamConfig(); have.Replicas != want.Replicas || have.Storage != want.Storage {
		s.log.Warn("discovery: the bucket is there with other settings, and used as it is", "bucket", s.opt.Bucket,
			"replicas", have.Replicas, "wanted", want.Replicas, "storage", have.Storage.String(), "wanted_storage", want.Storage.String())
	}
}

func (s *JetStream) checkStream(have jetstream.StreamConfig) error {
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
	for _, subject := range s.streamConfig().Subjects {
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

const clockWarning = 500 * time.Millisecond

// serverClock tells the server's time. It moves with the local monotonic clock
// from the last measurement, so that a step of the local wall clock does not
// matter.
type serverClock struct {
	now func() time.Time

	mu     sync.Mutex
	local  time.Time
	server time.Time
}

// set takes a server's stamp that was asked for at t0 and came at t1. It
// returns whether it is the first, and how far the local clock is behind.
func (c *serverClock) set(stamp, t0, t1 time.Time) (first bool, offset time.Duration) {
	rtt := t1.Sub(t0)
	local := t0.Add(rtt / 2)
	c.mu.Lock()
	defer c.mu.Unlock()
	first = c.local.IsZero()
	// A stamp that was long under way says little; an old one says more.
	if first || rtt < time.Second {
		c.local, c.server = local, stamp
	}
	return first, stamp.Sub(local)
}

func (c *serverClock) serverNow() time.Time {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server.Add(now.Sub(c.local))
}

// isTransient says whether a request may go through later, as in an election
// or while the connection is away.
func isTransient(err error) bool {
	for _, transient := range []error{
		nats.ErrNoResponders, jetstream.ErrNoStreamResponse, nats.ErrTimeout, context.DeadlineExceeded,
		nats.ErrReconnectBufExceeded, nats.ErrDisconnected, nats.ErrConnectionReconnecting,
		jetstream.ErrAsyncPublishTimeout,
	} {
		if errors.Is(err, transient) {
			return true
		}
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		// 503: no leader, no resources yet; 10164: a write on the subject is in flight; 10167: too many requests.
		return api.Code == 503 || api.ErrorCode == errInFlight || api.ErrorCode == errTooMany
	}
	return false
}

// Error codes of the server that nats.go has no names for.
const (
	errWrongSequence jetstream.ErrorCode = 10071
	errInFlight      jetstream.ErrorCode = 10164
	errTooMany       jetstream.ErrorCode = 10167
)

func hasCode(err error, code jetstream.ErrorCode) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == code
}

// retry calls try until it succeeds, fails for good, or ctx is done; then the
// error tells the last failure too.
func retry(ctx context.Context, try func(context.Context) error) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, requestTimeout)
		err := try(attempt)
		cancel()
		if err == nil || !isTransient(err) {
			return err
		}
		if sleep(ctx, retryWait) != nil {
			return fmt.Errorf("%w (last failure: %w)", ctx.Err(), err)
		}
	}
}
