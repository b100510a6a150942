package natskv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/internal/wait"
)

const (
	retryWait      = 250 * time.Millisecond
	requestTimeout = 5 * time.Second
	openTimeout    = 10 * time.Second
)

// retry calls try until it succeeds, fails permanently, or ctx is done; the
// error then includes the last failure.
func retry(ctx context.Context, try func(context.Context) error) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, requestTimeout)
		err := try(attempt)
		cancel()
		if err == nil || !isTransient(err) {
			return err
		}
		if wait.Sleep(ctx, retryWait) != nil {
			return fmt.Errorf("%w (last failure: %w)", ctx.Err(), err)
		}
	}
}

// isTransient reports whether a request may succeed later, as during an
// election or while the connection is down.
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
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.Code == 503 { // no leader, or no resources yet
		return true
	}
	return isWriteInFlight(err) || hasCode(err, errTooMany)
}

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
