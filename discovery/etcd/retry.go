package etcd

import (
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
	dialTimeout    = 10 * time.Second
	retryTimeout   = 10 * time.Second // of all attempts at a request
	requestTimeout = 3 * time.Second  // of one attempt
	retryWait      = 250 * time.Millisecond
)

// retry calls try until it succeeds, fails permanently, or ctx or retryTimeout
// has ended; the error then includes the last failure.
func (s *Store) retry(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, retryTimeout)
	defer cancel()
	for {
		attempt, cancel := context.WithTimeout(ctx, requestTimeout)
		err := try(attempt)
		cancel()
		switch {
		case err == nil:
			return nil
		case s.isClosed():
			return discovery.ErrClosed
		case !isTransient(err):
			return err
		}
		if cause := wait.Sleep(ctx, retryWait); cause != nil {
			if !errors.Is(err, cause) {
				err = fmt.Errorf("%w (last failure: %w)", cause, err)
			}
			return err
		}
	}
}

// located adds the endpoints to an error of a request.
func (s *Store) located(err error) error {
	if err == nil || errors.Is(err, discovery.ErrClosed) {
		return err
	}
	return fmt.Errorf("etcd at %s: %w", s.opt.addresses(), err)
}

// errLeaseLost is the error of a put whose lease had expired. It is transient.
var errLeaseLost = fmt.Errorf("the lease was lost: %w", context.DeadlineExceeded)

// isTransient reports whether a request may succeed later, as during an election
// or while the connection is down.
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
