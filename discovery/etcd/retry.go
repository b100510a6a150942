package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

const (
	dialTimeout  = 10 * time.Second
	retryTimeout = 10 * time.Second // of all attempts at a request

	// A request that gets no answer is sent again, to another member if there
	// is one. Each time-out doubles the next one, so that requests do not add to
	// the load of a slow server without ever getting an answer.
	minRequestTimeout = 3 * time.Second
	maxRequestTimeout = time.Minute
)

// newBackoff returns the pauses between attempts.
func newBackoff() wait.Backoff {
	return wait.Backoff{Min: 200 * time.Millisecond, Max: 2 * time.Second}
}

// patience is the time-out of the next request of a series.
type patience struct{ timeout time.Duration }

func (p *patience) get() time.Duration { return max(p.timeout, minRequestTimeout) }

// observe adapts the time-out to the result of a request that took some time.
func (p *patience) observe(took time.Duration, err error) {
	switch {
	case err == nil:
		p.timeout = min(p.get(), 4*took)
	case isTimeout(err):
		p.timeout = min(2*p.get(), maxRequestTimeout)
	}
}

// request calls try with a context that ends after the time-out, and adapts it.
func (p *patience) request(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.get())
	defer cancel()
	began := time.Now()
	err := try(ctx)
	p.observe(time.Since(began), err)
	return err
}

// retry calls try until it succeeds, fails permanently, ctx or retryTimeout has
// ended, or the store is shut down; the error then includes the last failure.
func (s *Store) retry(ctx context.Context, try func(context.Context) error) error {
	return s.retryDetached(ctx, nil, try)
}

// retryDetached is retry, but the context of an attempt that has begun is derived
// from requests, unless that is nil: the attempt may outlast ctx.
func (s *Store) retryDetached(ctx, requests context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, retryTimeout)
	defer cancel()
	if requests == nil {
		requests = ctx
	}
	backoff, patience := newBackoff(), patience{}
	for {
		if err := ctx.Err(); err != nil {
			return s.closedOr(err)
		}
		err := patience.request(requests, try)
		if err == nil {
			return nil
		}
		if !isTransient(err) {
			if errors.Is(err, context.Canceled) {
				err = cmp.Or(ctx.Err(), err)
			}
			return s.closedOr(err)
		}
		if cause := wait.Sleep(ctx, backoff.Next()); cause != nil {
			if !errors.Is(err, cause) {
				err = fmt.Errorf("%w (last failure: %w)", cause, err)
			}
			return s.closedOr(err)
		}
	}
}

// detach returns a context that ends some time after ctx, and when a Shutdown
// begins. Requests that may have been executed use it to get their answers.
func (s *Store) detach(ctx context.Context) (context.Context, context.CancelFunc) {
	requests, cancel := wait.Until(context.WithoutCancel(ctx), s.life)
	stop := context.AfterFunc(ctx, func() {
		_ = wait.Sleep(requests, min(s.opt.TTL, 5*time.Second))
		cancel()
	})
	return requests, func() { stop(); cancel() }
}

// closedOr returns ErrClosed for the error of a request that a Shutdown has ended.
func (s *Store) closedOr(err error) error {
	if err != nil && s.isClosed() {
		return discovery.ErrClosed
	}
	return err
}

// located adds the endpoints to an error of a request.
func (s *Store) located(err error) error {
	if err == nil || errors.Is(err, discovery.ErrClosed) {
		return err
	}
	return fmt.Errorf("etcd at %s: %w", s.opt.addresses(), err)
}

// errLeaseLost is the error of a write whose lease had expired. It is transient.
var errLeaseLost = fmt.Errorf("the lease was lost: %w", context.DeadlineExceeded)

// isTransient reports whether a request may succeed later, as during an election
// or while the connection is down.
func isTransient(err error) bool {
	return isTimeout(err) || errors.Is(err, rpctypes.ErrTooManyRequests) || codeOf(err) == codes.Unavailable
}

func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || codeOf(err) == codes.DeadlineExceeded
}

// isRefusal reports whether the server does not permit a request, which only its
// operator can change.
func isRefusal(err error) bool {
	code := codeOf(err)
	return code == codes.PermissionDenied || code == codes.Unauthenticated ||
		errors.Is(err, rpctypes.ErrAuthFailed) || errors.Is(err, rpctypes.ErrUserEmpty) || errors.Is(err, rpctypes.ErrUserNotFound)
}

// mayHaveBeenExecuted reports whether a write that failed may have been executed,
// or may be later: etcd has not refused it.
func mayHaveBeenExecuted(err error) bool {
	_, refused := errors.AsType[rpctypes.EtcdError](err)
	return !refused || isTransient(err)
}

func codeOf(err error) codes.Code {
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return e.Code()
	}
	return status.Code(err)
}
