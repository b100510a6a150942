package requestplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/dynplane/dynplane/internal/wait"
)

// slowest is the rate, in bytes a second, at which a request is assumed to travel.
const slowest = 64 << 10

// CallOptions are the options of a call.
type CallOptions struct {
	// Codec is that of the request and the items; the zero Codec is JSON. Take it
	// from request_plane_codec in the server's registration, if there is one.
	Codec Codec

	// Idle bounds the wait for the server, such as between the acknowledgement
	// and the answer, or between two items; 0 means 30 s. It begins again with
	// each byte that arrives: an answer takes as long as it progresses, or until
	// the end of the context.
	Idle time.Duration

	// Headers are added to the request, such as traceparent.
	Headers map[string]string
}

// Call sends a request to an endpoint and returns the items of its answer. Each
// loop over them is a call, which ends with the loop: a loop that is left early
// ends the handler at the server. The caller owns the items.
//
// The last element may be an error: that of ctx; a *[RefusedError] or
// [RemoteError] of the server; one that wraps os.ErrDeadlineExceeded if a timeout
// has passed, [ErrIncomplete], [ErrFormat], [ErrTooLarge] or [ErrClosed]; or that
// of a connection. Every call can be repeated if the request can.
func (c *Client) Call(ctx context.Context, to Address, request []byte, options CallOptions) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		c.calls.Add(1)
		err := c.call(ctx, to, request, options, func(item []byte) bool { return yield(item, nil) })
		switch refused := (*RefusedError)(nil); {
		case err == nil:
			return
		case ctx.Err() != nil:
			yield(nil, ctx.Err())
			return
		case c.life.Err() != nil:
			err = ErrClosed
		case errors.As(err, &refused):
			c.refused.Add(1)
		}
		yield(nil, fmt.Errorf("requestplane: call %s: %w", to, err))
	}
}

// call makes a call. It returns nil if the answer is complete, or yield returned
// false.
func (c *Client) call(ctx context.Context, to Address, request []byte, options CallOptions, yield func([]byte) bool) error {
	if err := checkPath(to.Path); err != nil {
		return err
	}
	codec, err := ParseCodec(string(options.Codec))
	if err != nil {
		return err
	}
	if len(request) == 0 {
		return errors.New("empty request: want one value in the codec of the call")
	}
	ctx, cancel := wait.Until(ctx, c.life)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return err
	}
	subject, home := c.expect()
	defer c.forget(subject, home)
	if err := c.send(ctx, to, subject, request, codec, options.Headers); err != nil {
		return err
	}
	idle := cmp.Or(options.Idle, defaultIdleTimeout)
	timer := time.NewTimer(idle)
	defer timer.Stop()
	select {
	case s := <-home:
		s = newStream(ctx, s.Conn, idle)
		defer func() { _ = s.Close() }()
		return c.read(s, codec, yield)
	case <-timer.C:
		return fmt.Errorf("no answer within %v: want a server that can connect to %s: %w", idle, c.addr, os.ErrDeadlineExceeded)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send sends the request and reads its acknowledgement, on a connection of its own.
func (c *Client) send(ctx context.Context, to Address, subject string, request []byte, codec Codec, extra map[string]string) error {
	id := newUUID()
	message, err := encodeControl(id, subject, c.addr, codec)
	if err != nil {
		return err
	}
	headers := make(map[string]string, len(extra)+3)
	maps.Copy(headers, extra)
	headers["request-id"], headers["x-endpoint-path"] = id, to.Path
	headers["x-frontend-send-ts-ns"] = strconv.FormatInt(time.Now().UnixNano(), 10)
	bytes, err := encodeRequest(to.Path, headers, message, len(request))
	if err != nil {
		return err
	}
	conn, err := dial(ctx, to.Host, c.options.TLS, c.options.ConnectTimeout)
	if err != nil {
		return err
	}
	s := newStream(ctx, conn, c.options.AckTimeout)
	defer func() { _ = s.Close() }()
	if _, err = s.Write(bytes); err == nil {
		_, err = s.Write(request)
	}
	// The kernel may still hold all of a long request.
	s.idle.Add(int64(time.Second) * int64(len(request)) / slowest)
	// A server that refuses a request by its size may not read all of it.
	text, ackErr := readAck(s)
	switch {
	case ackErr == nil && text != "":
		return &RefusedError{excerpt(text)}
	case err != nil:
		return fmt.Errorf("send the request: %w", err)
	case ackErr != nil:
		return fmt.Errorf("no acknowledgement: %w", ackErr)
	}
	return nil
}

// read reads an answer after its handshake.
func (c *Client) read(s *stream, codec Codec, yield func([]byte) bool) error {
	defer func() {
		if s.ctx.Err() != nil {
			s.kill()
		}
	}()
	r := newReader(s)
	f, err := readFrame(r, maxHeader, 0)
	if err != nil {
		return incomplete(err)
	}
	if err := decodePrologue(f); err != nil {
		return err
	}
	for {
		if f, err = readFrame(r, maxHeader, min(c.options.MaxAnswer, math.MaxInt)); err != nil {
			return incomplete(err)
		}
		if string(f.header) == sentinel {
			return ErrIncomplete
		}
		item, final, err := decodeItem(f, codec)
		if err != nil {
			return err
		}
		if item != nil && !yield(item) {
			s.kill()
			return nil
		}
		if final {
			c.complete.Add(1)
			s.idle.Store(int64(time.Second))
			_, _ = readFrame(r, maxHeader, 0) // the sentinel; without it the server would see a reset
			return nil
		}
	}
}

// kill notifies the server of the end of the call, if that is possible at once.
func (s *stream) kill() {
	s.release()
	_ = s.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	_, _ = s.Conn.Write(control([]byte(kill)))
}

// incomplete explains the end of a stream.
func incomplete(err error) error {
	var reset *net.OpError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ErrIncomplete
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.Canceled), !errors.As(err, &reset):
		return err
	}
	return fmt.Errorf("%w: %w", ErrIncomplete, err)
}
