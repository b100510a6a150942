package natskv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/integration/natstest"
)

func TestTransientErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nats.ErrNoResponders, true},
		{jetstream.ErrNoStreamResponse, true},
		{nats.ErrDisconnected, true},
		{nats.ErrReconnectBufExceeded, true},
		{errContended, true},
		{fmt.Errorf("nats: %w", &jetstream.APIError{Code: 503}), true},
		{&jetstream.APIError{Code: 400, ErrorCode: jetstream.JSErrCodeStreamWrongLastSequenceConstant}, true},
		{&jetstream.APIError{Code: 429, ErrorCode: errTooMany}, true},
		{&jetstream.APIError{Code: 400, ErrorCode: jetstream.JSErrCodeStreamWrongLastSequence}, false},
		{&jetstream.APIError{Code: 503, ErrorCode: jetstream.JSErrCodeJetStreamNotEnabledForAccount}, false},
		{jetstream.ErrJetStreamNotEnabled, false},
		{context.DeadlineExceeded, false},
		{context.Canceled, false},
		{nats.ErrConnectionClosed, false},
		{nats.ErrMaxPayload, false},
		{ErrBucket, false},
	} {
		if got := isTransient(c.err); got != c.want {
			t.Errorf("%v is transient: %v", c.err, got)
		}
	}
}

func TestRetryReturnsTheLastFailure(t *testing.T) {
	t.Parallel()
	s := openStore(t, natstest.Run(t).Connect(t), Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := s.retry(ctx, func(context.Context) error { return nats.ErrNoResponders })
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("got %v", err)
	}
}

func TestConnectionThatBuffersIsRefused(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := New(nc, Options{}); err == nil || !strings.Contains(err.Error(), "ReconnectBufSize(-1)") {
		t.Errorf("got %v, want one that names the remedy", err)
	}
}
