package natskv

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// refusalPoll is how often a request that waits for its answer checks whether
// the server has refused it: that error arrives outside of the answer.
const refusalPoll = 50 * time.Millisecond

// request calls do, and ends it as soon as the server has refused it for missing
// permissions, with the server's own words. The connection has many users, so do must
// name each subject that it publishes on to requesting.
func (s *Store) request(ctx context.Context, do func(context.Context) error) error {
	var sent subjects
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, subjectsKey{}, &sent))
	defer cancel(nil)
	s.pollRefusal(ctx, &sent, time.Now(), s.nc.LastError(), cancel)
	err := do(ctx)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, nats.ErrPermissionViolation) {
		return cause
	}
	return err
}

// subjects are those on which the requests of one call were published.
type subjects struct {
	mu   sync.Mutex
	list []string
}

type subjectsKey struct{}

// requesting records a subject, or the first tokens of one, on which a request is
// about to be published.
func requesting(ctx context.Context, subject string) {
	if sent, ok := ctx.Value(subjectsKey{}).(*subjects); ok {
		sent.mu.Lock()
		defer sent.mu.Unlock()
		sent.list = append(sent.list, subject)
	}
}

// has reports whether a refused subject is one of these.
func (s *subjects) has(refused string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, subject := range s.list {
		if rest, ok := strings.CutPrefix(refused, subject); ok && (rest == "" || rest[0] == '.') {
			return true
		}
	}
	return false
}

// pollRefusal cancels a request that was begun when the last error of the
// connection was before. The inbox of all requests is refused only once.
func (s *Store) pollRefusal(ctx context.Context, sent *subjects, begun time.Time, before error, cancel context.CancelCauseFunc) {
	time.AfterFunc(refusalPoll, func() {
		if ctx.Err() != nil {
			return
		}
		err := s.nc.LastError()
		subject := refusedSubject(err)
		isNew := err != before //nolint:errorlint // an equal error again is a new one
		inbox := strings.HasPrefix(subject, s.inbox())
		if isNew && (inbox || sent.has(subject)) || inbox && time.Since(begun) > silence {
			cancel(err)
			return
		}
		s.pollRefusal(ctx, sent, begun, before, cancel)
	})
}

// refusedSubject returns the subject that a missing permission concerns, which the
// server quotes, or an empty one.
func refusedSubject(err error) string {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return ""
	}
	_, rest, _ := strings.Cut(err.Error(), `"`)
	subject, _, _ := strings.Cut(rest, `"`)
	return subject
}

// heartbeatRefusal returns the last error of the connection if it is a missing
// permission by which heartbeats of this store fail.
func (s *Store) heartbeatRefusal() error {
	err := s.nc.LastError()
	subject := refusedSubject(err)
	if strings.HasPrefix(subject, s.inbox()) {
		return err
	}
	key, ok := strings.CutPrefix(subject, s.opt.leaseSubject(""))
	if !ok {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[key] == nil {
		return nil
	}
	return err
}

// inbox is the prefix of the subjects of answers.
func (s *Store) inbox() string { return cmp.Or(s.nc.Opts.InboxPrefix, "_INBOX") + "." }
