package natskv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

const (
	// A request waits for its answer for minPatience at first, and twice as long
	// each time that it is repeated: a server that is slow must not get more
	// requests for it.
	minPatience = 2 * time.Second
	maxPatience = 30 * time.Second
	// Repeated requests are up to firstBackoff apart at first, and up to
	// lastBackoff later, with full jitter.
	firstBackoff = 10 * time.Millisecond
	lastBackoff  = time.Second
	// silence is how long a connected server may have no JetStream at all before
	// a call fails: it may be joining its cluster or domain.
	silence = 500 * time.Millisecond
)

// begin starts a call that ends with ErrClosed as soon as Shutdown begins. The
// caller must call end.
func (s *Store) begin(ctx context.Context) (bound context.Context, end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, discovery.ErrClosed
	}
	s.calls.Add(1)
	bound, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.life, func() { cancel(discovery.ErrClosed) })
	return bound, func() {
		stop()
		cancel(nil)
		s.calls.Done()
	}, nil
}

// retry calls try until it succeeds, fails permanently, or ctx is done; the error
// then includes the last failure.
func (s *Store) retry(ctx context.Context, try func(context.Context) error) error {
	backoff := wait.Backoff{Min: firstBackoff, Max: lastBackoff}
	patience := minPatience
	for {
		attempt, cancel := context.WithTimeout(ctx, patience)
		err := s.request(attempt, try)
		overdue := attempt.Err() != nil
		cancel()
		if err != nil && ctx.Err() != nil {
			return stopped(ctx, err)
		}
		if err == nil || !isTransient(err) && (!overdue || !errors.Is(err, context.DeadlineExceeded)) {
			return err
		}
		if overdue {
			patience = min(2*patience, maxPatience)
		}
		if wait.Sleep(ctx, backoff.Next()) != nil {
			return stopped(ctx, err)
		}
	}
}

// stopped returns the error of a call whose ctx is done, with its last failure.
func stopped(ctx context.Context, last error) error {
	if cause := context.Cause(ctx); errors.Is(cause, discovery.ErrClosed) {
		return cause
	}
	if last == nil || ctx.Err() == nil || errors.Is(last, ctx.Err()) {
		return ctx.Err()
	}
	return fmt.Errorf("%w (last failure: %w)", ctx.Err(), last)
}

// responders bounds how long a connected server may not respond to the requests of
// one call.
type responders struct {
	store *Store
	since time.Time // of the first request without a response; zero if the last one had one
}

// check returns the error of a request, or one that is permanent if no server has
// responded for silence.
func (r *responders) check(err error) error {
	nc := r.store.nc
	switch {
	case !errors.Is(err, nats.ErrNoResponders) || !nc.IsConnected():
		r.since = time.Time{}
	case r.since.IsZero():
		r.since = time.Now()
	case time.Since(r.since) >= silence:
		return fmt.Errorf("%w on %s (%s); is it enabled (nats-server -js), and for this account?", errNoJetStream, nc.ConnectedUrlRedacted(), err)
	}
	return err
}

var errNoJetStream = errors.New("JetStream does not answer")

// isTransient reports whether a request may succeed later, as during an
// election or while the connection is down.
func isTransient(err error) bool {
	for _, transient := range []error{
		nats.ErrNoResponders, jetstream.ErrNoStreamResponse, nats.ErrTimeout,
		nats.ErrReconnectBufExceeded, nats.ErrDisconnected, nats.ErrConnectionReconnecting,
		errContended,
	} {
		if errors.Is(err, transient) {
			return true
		}
	}
	if hasCode(err, jetstream.JSErrCodeJetStreamNotEnabled) || hasCode(err, jetstream.JSErrCodeJetStreamNotEnabledForAccount) {
		return false
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.Code == 503 {
		return true // no leader, or no resources yet
	}
	return isWriteInFlight(err) || hasCode(err, errTooMany)
}

// errContended reports that another call came in between.
var errContended = errors.New("another client writes the same")

// errTooMany is the server's code for "too many requests", for which nats.go
// has no constant.
const errTooMany jetstream.ErrorCode = 10167

// isWriteInFlight reports that another write on the subject is being replicated.
// On a replicated stream the server refuses a fenced write with it instead of
// deciding the fence, so the call is repeated.
func isWriteInFlight(err error) bool {
	return hasCode(err, jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// isWrongSequence reports that the fence of a write did not hold.
func isWrongSequence(err error) bool {
	return hasCode(err, jetstream.JSErrCodeStreamWrongLastSequence)
}

func hasCode(err error, code jetstream.ErrorCode) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == code
}
