package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dynplane/dynplane/discovery"
)

const (
	openTimeout    = 10 * time.Second // for all tries of a request
	requestTimeout = 3 * time.Second  // for one
	retryWait      = 250 * time.Millisecond
)

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
