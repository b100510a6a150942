package natskv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// minServer is the oldest server that can hold leases: 2.12 refuses to source the
// purge of an expired lease, and older ones never publish it.
const minServer = "2.14"

// open ensures that the streams exist and fit, unless this was done before.
func (s *Store) open(ctx context.Context) error {
	if !s.openedAt().IsZero() {
		return nil
	}
	return s.reopen(ctx)
}

// reopen ensures that the streams exist and fit. Callers that wait for each other
// need one check.
func (s *Store) reopen(ctx context.Context) error {
	begun := time.Now()
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return stopped(ctx, nil)
	}
	if s.openedAt().After(begun) {
		return nil
	}
	responders := responders{store: s}
	return s.retry(ctx, func(ctx context.Context) error { return responders.check(s.ensure(ctx)) })
}

func (s *Store) firstSequence() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}

// openedAt returns when the streams were last found to exist and fit.
func (s *Store) openedAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

// ensure creates the two streams unless they exist, checks that they can hold
// leases, and measures the clock offset. The bucket names its write stream. If
// that one was deleted, and there is a new one of the same name, the bucket has
// entries that nothing will ever purge, and is replaced.
func (s *Store) ensure(ctx context.Context) error {
	if err := s.checkServer(); err != nil {
		return err
	}
	write, err := s.info(ctx, s.opt.writeStream())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err := s.refuseCopy(ctx); err != nil {
			return err
		}
		if write, err = s.create(ctx, s.opt.writeConfig(uint64(s.opt.Now().UnixMicro()))); err == nil {
			s.log.Info("natskv: created the bucket", "bucket", s.opt.Bucket, "replicas", s.opt.Replicas)
		}
	}
	if err != nil {
		return err
	}
	if err := s.checkWriteStream(write.Config); err != nil {
		return err
	}
	want := s.opt.readConfig(write.Config.FirstSeq)
	read, err := s.info(ctx, want.Name)
	switch {
	case err == nil && isStale(read, want):
		read, err = s.replaceBucket(ctx, want)
	case errors.Is(err, jetstream.ErrStreamNotFound):
		read, err = s.create(ctx, want)
	}
	if err != nil {
		return err
	}
	if err := s.checkReadStream(read.Config); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replicas, s.first, s.opened = write.Config.Replicas, write.Config.FirstSeq, time.Now()
	return nil
}

// isStale reports whether a bucket was filled from another write stream than want is.
func isStale(read *jetstream.StreamInfo, want jetstream.StreamConfig) bool {
	of := read.Config.Metadata[writeStreamKey]
	return of != "" && of != want.Metadata[writeStreamKey]
}

const (
	// replaceKey is that of the lease which an owner has to hold to replace the bucket.
	// No entry has it.
	replaceKey = "=replace"
	replaceTTL = "5s"
)

// replaceBucket deletes a stale bucket and creates another one. Only one owner at a
// time does so, since it could not distinguish the new bucket of another owner when it
// deletes it; the others look again.
func (s *Store) replaceBucket(ctx context.Context, want jetstream.StreamConfig) (*jetstream.StreamInfo, error) {
	claim := nats.NewMsg(s.opt.leaseSubject(replaceKey))
	claim.Header.Set(jetstream.MsgTTLHeader, replaceTTL)
	expect(claim, claim.Subject, 0)
	_, err := s.publish(ctx, claim)
	if isWrongSequence(err) {
		return nil, fmt.Errorf("bucket %q is being replaced: %w", s.opt.Bucket, errContended)
	}
	if err != nil {
		return nil, err
	}
	read, err := s.info(ctx, want.Name)
	if err == nil && !isStale(read, want) {
		return read, nil
	}
	if err == nil {
		s.log.Warn("natskv: the bucket was filled from a write stream that was deleted; replacing it", "bucket", s.opt.Bucket)
		requesting(ctx, s.opt.apiSubject("STREAM.DELETE", want.Name))
		err = s.js.DeleteStream(ctx, want.Name)
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, err
	}
	return s.create(ctx, want)
}

// refuseCopy refuses a bucket without a write stream that is sourced from another
// JetStream domain: what is written here would be on the subjects of both sites.
func (s *Store) refuseCopy(ctx context.Context) error {
	read, err := s.info(ctx, s.opt.readStream())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, source := range read.Config.Sources {
		if source.External != nil {
			return fmt.Errorf("bucket %q is a copy of another site, for readers: register with the API prefix %s: %w",
				s.opt.Bucket, source.External.APIPrefix, ErrBucket)
		}
	}
	return nil
}

// create creates a stream. It never updates one: another client may have created
// it since. A cluster in which several clients create it at once may report a
// stream that is in use, and then none, until it is assigned.
func (s *Store) create(ctx context.Context, config jetstream.StreamConfig) (*jetstream.StreamInfo, error) {
	requesting(ctx, s.opt.apiSubject("STREAM.CREATE", config.Name))
	_, err := s.js.CreateStream(ctx, config)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return nil, fmt.Errorf("create stream %s: %w", config.Name, err)
	}
	info, err := s.info(ctx, config.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("stream %s was created, but there is none: %w", config.Name, errContended)
	}
	return info, err
}

// info requests the info of a stream, which carries the server's time.
func (s *Store) info(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	requesting(ctx, s.opt.apiSubject("STREAM.INFO", name))
	t0 := s.opt.Now()
	stream, err := s.js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	info := stream.CachedInfo()
	if first, off := s.clock.set(info.TimeStamp, t0, s.opt.Now()); first && off.Abs() > clockWarning {
		s.log.Warn("natskv: the local clock differs from the server's; deadlines are in the server's time", "offset", off)
	}
	return info, nil
}

// checkServer refuses the server of the connection if it is too old.
func (s *Store) checkServer() error {
	version := s.nc.ConnectedServerVersion()
	if version == "" || compareVersions(version, minServer) >= 0 {
		return nil // or not connected
	}
	return fmt.Errorf("NATS server %s at %s: want %s or later, which purges expired leases: %w",
		version, s.nc.ConnectedUrlRedacted(), minServer, ErrBucket)
}

// compareVersions compares the numbers of two versions, as far as both have them.
func compareVersions(a, b string) int {
	return slices.CompareFunc(versionNumbers(a), versionNumbers(b)[:2], func(x, y int) int { return x - y })
}

func versionNumbers(version string) []int {
	numbers := make([]int, 2)
	for i, part := range strings.SplitN(version, ".", 3) {
		if i < len(numbers) {
			numbers[i], _ = strconv.Atoi(part)
		}
	}
	return numbers
}

// lacks collects the properties that a stream must have and does not.
type lacks []string

func (l *lacks) unless(ok bool, what string) {
	if !ok {
		*l = append(*l, what)
	}
}

// limits reports everything by which a stream can lose or refuse entries.
func (l *lacks) limits(have jetstream.StreamConfig) {
	l.unless(have.MaxMsgsPerSubject == 1, "a history of 1 (MaxMsgsPerSubject)")
	l.unless(have.MaxMsgs <= 0, "no limit of messages (MaxMsgs)")
	l.unless(have.MaxBytes <= 0, "no limit of bytes (MaxBytes)")
	l.unless(have.MaxAge == 0, "no limit of age (MaxAge)")
	l.unless(have.MaxMsgSize <= 0, "no limit of the size of a message (MaxMsgSize)")
	l.unless(have.Retention == jetstream.LimitsPolicy, "retention by limits")
	l.unless(!have.Sealed, "writes (it is sealed)")
	l.unless(!have.NoAck, "acknowledgements (it has NoAck)")
	l.unless(have.Mirror == nil, "writes of its own (it is a mirror)")
	l.unless(have.AllowMsgTTL, "message TTLs (AllowMsgTTL)")
	l.unless(have.AllowDirect, "direct gets (AllowDirect)")
}

func (l *lacks) err(s *Store, stream string) error {
	if len(*l) == 0 {
		return nil
	}
	return fmt.Errorf("stream %s of bucket %q on NATS server %s lacks %s: remove it, if it was made by other means, or name another bucket: %w",
		stream, s.opt.Bucket, s.nc.ConnectedServerVersion(), strings.Join(*l, ", "), ErrBucket)
}

func (s *Store) checkWriteStream(have jetstream.StreamConfig) error {
	var l lacks
	want := s.opt.writeConfig(0)
	l.limits(have)
	l.unless(have.AllowMsgSchedules, "scheduled messages (AllowMsgSchedules)")
	l.unless(have.AllowRollup, "roll-ups (AllowRollup)")
	l.unless(have.SubjectTransform == nil, "unchanged subjects (it has a SubjectTransform)")
	for _, subject := range want.Subjects {
		l.unless(slices.Contains(have.Subjects, subject), "the subject "+subject)
	}
	if err := l.err(s, want.Name); err != nil {
		return err
	}
	if err := s.opt.checkTTL(have.Replicas); err != nil {
		return fmt.Errorf("bucket %q: %w: %w", s.opt.Bucket, err, ErrBucket)
	}
	s.warnDifferences(have, want)
	return nil
}

func (s *Store) checkReadStream(have jetstream.StreamConfig) error {
	var l lacks
	want := s.opt.readConfig(0)
	l.limits(have)
	sourced := slices.ContainsFunc(have.Sources, func(source *jetstream.StreamSource) bool {
		return source.Name == want.Sources[0].Name && slices.Equal(source.SubjectTransforms, want.Sources[0].SubjectTransforms)
	})
	l.unless(sourced, "the source "+s.opt.writeStream())
	return l.err(s, want.Name)
}

func (s *Store) warnDifferences(have, want jetstream.StreamConfig) {
	if s.openedAt().IsZero() && (have.Replicas != want.Replicas || have.Storage != want.Storage) {
		s.log.Warn("natskv: the bucket exists with other settings and is used as it is", "bucket", s.opt.Bucket,
			"replicas", have.Replicas, "wanted", want.Replicas, "storage", have.Storage.String(), "wanted_storage", want.Storage.String())
	}
}
