// Package nats is the driver that carries the event plane's messages over NATS
// core subjects. Applications use package eventplane, which is built on it.
//
// The driver uses a connection that the caller owns, and neither dials nor
// closes one:
//
//	pub := natsdriver.NewPublisher(nc)
//	sub, err := natsdriver.Subscribe(nc, "namespace.dynamo.component.backend.kv-events")
//
// A message is one NATS message whose payload is the encoded envelope. It has
// no headers and no reply subject, and subscriptions have no queue group, like
// those of NVIDIA Dynamo. Delivery is at most once. Ticks and replays have
// subjects of their own, which begin with "dynplane.".
//
// Import the package as natsdriver, since nats.go is package nats too.
package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/wait"
)

const (
	// nats.go holds at most maxPendingMessages and maxPendingBytes that the
	// subscriber's queue has not taken over yet, which happens only while that
	// blocks, or the machine is busy. Further messages are dropped and counted:
	// the newest, not the oldest.
	maxPendingMessages = 64 << 10
	maxPendingBytes    = 64 << 20

	// The same for ticks and requests for replay, which are small. A publisher
	// repeats ticks, and a subscriber requests.
	maxPendingControl = 1024

	// maxSubject limits the bytes of a subject. The server closes a connection
	// with a command of more than 4,096 bytes without its name, unless it is
	// configured otherwise; the rest is for the numbers and the prefix of a tick.
	maxSubject = 4096 - 64

	// nextTimeout bounds one wait for a message, which is then repeated: nats.go
	// has no wait without a bound that reports a refusal.
	nextTimeout = time.Minute

	// publishRetryWait is the wait after a write that failed on a connection that is
	// not lost.
	publishRetryWait = 50 * time.Millisecond

	// closeFlushTimeout bounds the wait of Publisher.Close for the server.
	closeFlushTimeout = 2 * time.Second

	// readyFlushTimeout bounds one attempt of Ready. Ready retries
	// readyRetryWait after an attempt that failed, because the time was up or
	// the connection was lost.
	readyFlushTimeout = 2 * time.Second
	readyRetryWait    = 50 * time.Millisecond
)

// Options are the settings of a publisher or subscriber. The zero value is ready
// for use.
type Options struct {
	// Queue is the queue of a subscriber. A server disconnects clients that stop
	// reading, so a queue that blocks does not hold back the publishers: once it is
	// full, 65,536 messages or 64 MiB more are kept before it, and further ones are
	// dropped.
	Queue driver.QueueOptions

	// Identity returns the publisher and the sequence of the envelope in body. With it,
	// a subscriber announces the publishers whose first event it drops.
	Identity func(body []byte) (publisher, sequence uint64, ok bool)

	// Logger receives a warning if the server does not permit ticks, or if requests
	// for replay are malformed; nil is silent.
	Logger *slog.Logger
}

func (o Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

// checkSubject refuses a subject for which the server would close the connection,
// which others use too.
func checkSubject(subject string) error {
	if len(subject) > maxSubject {
		return fmt.Errorf("subject of %d bytes: want at most %d", len(subject), maxSubject)
	}
	return nil
}

// The operations in the server's text of a permission that is violated.
const (
	publishing  = "Publish"
	subscribing = "Subscription"
)

// errorLog finds new errors among those that nats.go has received from the server,
// of which it keeps the last. It is not safe for concurrent use.
type errorLog struct {
	nc   *nats.Conn
	seen error
}

func newErrorLog(nc *nats.Conn) errorLog { return errorLog{nc, nc.LastError()} }

// next returns an error that next has not returned before, or nil.
func (l *errorLog) next() error {
	err := l.nc.LastError()
	if err == l.seen { //nolint:errorlint // the same value, not the same kind
		return nil
	}
	l.seen = err
	return err
}

// refuses reports whether err is the server's refusal of an operation on subject.
func refuses(err error, operation, subject string) bool {
	return errors.Is(err, nats.ErrPermissionViolation) &&
		strings.Contains(err.Error(), operation+" to "+strconv.Quote(subject))
}

// ready blocks until the server has received what was sent before on nc. It tries
// again while the connection is lost.
func ready(ctx context.Context, nc *nats.Conn, closed func() bool) error {
	for {
		err := flush(ctx, nc)
		switch {
		case closed():
			return driver.ErrClosed
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case nc.IsClosed():
			return fmt.Errorf("nats: wait for the server: %w", err)
		}
		if err := wait.Sleep(ctx, readyRetryWait); err != nil {
			return err
		}
	}
}

func flush(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, readyFlushTimeout)
	defer cancel()
	return nc.FlushWithContext(ctx)
}
