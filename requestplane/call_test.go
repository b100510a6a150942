package requestplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/latencyproxy"
	"github.com/dynplane/dynplane/internal/waittest"
)

func TestCallReturnsItemsInOrder(t *testing.T) {
	t.Parallel()
	requests := map[Codec]string{"": `{"n":1}`, JSON: `[1,"a"]`, Msgpack: "\x81\xa1n\x01"}
	for codec, request := range requests {
		t.Run(string(codec), func(t *testing.T) {
			t.Parallel()
			server, client := newServer(t, ServerOptions{}), newClient(t, ClientOptions{})
			to := serve(t, server, func(_ context.Context, r *Request, send func([]byte) error) error {
				if want, _ := ParseCodec(string(codec)); r.Codec != want || r.Path != path || r.Headers["request-id"] != r.ID || r.Headers["traceparent"] != "x" {
					return fmt.Errorf("request %+v", r)
				}
				for range 3 {
					if err := send(r.Payload); err != nil {
						return err
					}
				}
				return nil
			})
			for range 2 { // a call can be repeated
				items, err := collect(t.Context(), client, to, request, CallOptions{Codec: codec, Headers: map[string]string{"traceparent": "x"}})
				if want := []string{request, request, request}; err != nil || !slices.Equal(items, want) {
					t.Fatalf("items %q, error %v, want %q", items, err, want)
				}
			}
			eventually(t, "both calls are counted", func() bool {
				return server.Stats() == ServerStats{Requests: 2, Complete: 2} && client.Stats() == ClientStats{Calls: 2, Complete: 2}
			})
		})
	}
}

func TestEmptyAnswer(t *testing.T) {
	t.Parallel()
	to := serve(t, newServer(t, ServerOptions{}), func(context.Context, *Request, func([]byte) error) error { return nil })
	if items, err := collect(t.Context(), newClient(t, ClientOptions{}), to, "1", CallOptions{}); len(items) > 0 || err != nil {
		t.Errorf("items %q, error %v, want none", items, err)
	}
}

func TestLargeItemAndRequest(t *testing.T) {
	t.Parallel()
	server, client := newServer(t, ServerOptions{}), newClient(t, ClientOptions{})
	to := serve(t, server, echo)
	request := `"` + strings.Repeat("x", 5<<20) + `"`
	items, err := collect(t.Context(), client, to, request, CallOptions{})
	if err != nil || len(items) != 1 || items[0] != request {
		t.Fatalf("%d items, error %v, want one like the request", len(items), err)
	}
	eventually(t, "the memory is free again", func() bool { return server.memory.Load() == 0 })
}

func TestHandlerErrors(t *testing.T) {
	t.Parallel()
	server, client := newServer(t, ServerOptions{}), newClient(t, ClientOptions{})
	to := serve(t, server, func(_ context.Context, r *Request, send func([]byte) error) error {
		if string(r.Payload) == `"later"` {
			if err := send([]byte("1")); err != nil {
				return err
			}
		}
		return errors.New("no cache")
	})
	_, err := collect(t.Context(), client, to, `"now"`, CallOptions{})
	if remote := (*RemoteError)(nil); !errors.As(err, &remote) || remote.Message != "no cache" {
		t.Errorf("error %v, want that of the handler", err)
	}
	items, err := collect(t.Context(), client, to, `"later"`, CallOptions{})
	expectError(t, err, ErrIncomplete)
	if len(items) != 1 {
		t.Errorf("items %q, want the one before the error", items)
	}
	eventually(t, "both failures are counted", func() bool { return server.Stats().Failed == 2 })
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	server := newServer(t, ServerOptions{MaxRequest: 1 << 20})
	client := newClient(t, ClientOptions{})
	to := serve(t, server, echo)
	refused := func(to Address, request, want string) {
		t.Helper()
		_, err := collect(t.Context(), client, to, request, CallOptions{})
		if r := (*RefusedError)(nil); !errors.As(err, &r) || !strings.HasPrefix(r.Reason, want) {
			t.Errorf("error %v, want a refusal %q", err, want)
		}
	}
	other := Address{to.Host, "2a/other"}
	refused(other, "1", "Server unavailable: unknown endpoint 2a/other")
	refused(to, strings.Repeat("1", 2<<20), "Read error: message too large: ")
	server.options.AllowCallHome = InPrefixes(netip.MustParsePrefix("10.0.0.0/8"))
	refused(to, "1", "Server unavailable: it may not connect to 127.0.0.1:")
	server.options.AllowCallHome = SameHost
	expectEcho(t, client, to)
	if got := server.Stats(); got.UnknownEndpoint != 1 || got.TooLarge != 1 || got.Denied != 1 || client.Stats().Refused != 3 {
		t.Errorf("counted %+v and %+v, want three refusals", got, client.Stats())
	}
}

func TestInvalidCalls(t *testing.T) {
	t.Parallel()
	client := newClient(t, ClientOptions{})
	to := mustAddress(t, "127.0.0.1:9")
	for name, call := range map[string]func() ([]string, error){
		"codec":   func() ([]string, error) { return collect(t.Context(), client, to, "1", CallOptions{Codec: "cbor"}) },
		"request": func() ([]string, error) { return collect(t.Context(), client, to, "", CallOptions{}) },
		"path": func() ([]string, error) {
			return collect(t.Context(), client, Address{Host: to.Host}, "1", CallOptions{})
		},
		"headers": func() ([]string, error) {
			return collect(t.Context(), client, to, "1", CallOptions{Headers: map[string]string{"a": strings.Repeat("x", 1<<16)}})
		},
	} {
		if items, err := call(); err == nil || len(items) > 0 {
			t.Errorf("invalid %s: items %q, error %v, want an error", name, items, err)
		}
	}
}

// TestLatency makes calls at once over slow connections in both directions.
func TestLatency(t *testing.T) {
	t.Parallel()
	server := newServer(t, ServerOptions{})
	client := newClientBehind(t, 30*time.Millisecond)
	to := serve(t, server, echo)
	proxy, err := latencyproxy.Start(to.Host.String(), 30*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	to.Host = netip.MustParseAddrPort(proxy.Addr())
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			items, err := collect(t.Context(), client, to, `"hello"`, CallOptions{})
			if err != nil || len(items) != 1 {
				t.Errorf("items %q, error %v, want an echo", items, err)
			}
		})
	}
	calls.Wait()
}

// newClientBehind returns a client whose listener is reached through a proxy.
func newClientBehind(t *testing.T, delay time.Duration) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // for a port that is free
	if err != nil {
		t.Fatal(err)
	}
	listen := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	proxy, err := latencyproxy.Start(listen, delay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	client, err := NewClient(ClientOptions{Listen: listen, Advertise: netip.MustParseAddrPort(proxy.Addr()), AckTimeout: waittest.Patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// endless sends items until the call ends, and reports why.
func endless(cause chan<- error) Handler {
	return func(ctx context.Context, _ *Request, send func([]byte) error) error {
		item := bytes.Repeat([]byte("1"), 100<<10)
		for {
			if err := send(item); err != nil {
				cause <- errors.Join(err, context.Cause(ctx))
				return err
			}
		}
	}
}

func TestEndOfTheLoopStopsTheHandler(t *testing.T) {
	t.Parallel()
	server, client := newServer(t, ServerOptions{}), newClient(t, ClientOptions{})
	cause := make(chan error, 1)
	to := serve(t, server, endless(cause))
	for _, err := range client.Call(t.Context(), to, []byte("1"), CallOptions{Idle: waittest.Patience}) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	expectError(t, <-cause, ErrStopped)
	eventually(t, "the stop is counted", func() bool { return server.Stats().Stopped == 1 })
}

func TestCancellation(t *testing.T) {
	t.Parallel()
	server, client := newServer(t, ServerOptions{}), newClientBehind(t, time.Millisecond)
	cause := make(chan error, 1)
	to := serve(t, server, endless(cause))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	items := 0
	var last error
	for _, err := range client.Call(ctx, to, []byte("1"), CallOptions{Idle: waittest.Patience}) {
		if items++; items == 10 {
			cancel()
		}
		last = err
	}
	expectError(t, last, context.Canceled)
	expectError(t, <-cause, ErrStopped)
}

// TestCancellationBeforeTheAnswer ends a call whose handler is silent. Nothing of
// it is left at either side.
func TestCancellationBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	server, client := newServer(t, ServerOptions{}), newClient(t, ClientOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	to := serve(t, server, func(ctx context.Context, _ *Request, _ func([]byte) error) error {
		cancel()
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil
	})
	_, err := collect(ctx, client, to, "1", CallOptions{})
	expectError(t, err, context.Canceled)
	expectError(t, <-ended, ErrStopped)
	client.mu.Lock()
	defer client.mu.Unlock()
	if len(client.waiting) > 0 {
		t.Errorf("%d calls are registered after their end", len(client.waiting))
	}
}

func TestIdleTimeout(t *testing.T) {
	t.Parallel()
	server, client := newServer(t, ServerOptions{}), newClient(t, ClientOptions{})
	to := serve(t, server, func(ctx context.Context, _ *Request, _ func([]byte) error) error {
		<-ctx.Done()
		return nil
	})
	_, err := collect(t.Context(), client, to, "1", CallOptions{Idle: moment})
	expectError(t, err, os.ErrDeadlineExceeded)
	eventually(t, "the handler has ended", func() bool { return server.Stats().Stopped == 1 })
}

func TestCloseOfTheClientEndsCalls(t *testing.T) {
	t.Parallel()
	server, client := newServer(t, ServerOptions{}), newClient(t, ClientOptions{})
	to := serve(t, server, endless(make(chan error, 1)))
	var last error
	for _, err := range client.Call(t.Context(), to, []byte("1"), CallOptions{Idle: waittest.Patience}) {
		last = err
		if err == nil {
			_ = client.Close() // within the loop
		}
	}
	expectError(t, last, ErrClosed)
	_, err := collect(t.Context(), client, to, "1", CallOptions{})
	expectError(t, err, ErrClosed)
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

func TestShutdownWaitsForCalls(t *testing.T) {
	t.Parallel()
	server, client := newServer(t, ServerOptions{}), newClient(t, ClientOptions{})
	begun, proceed := make(chan struct{}), make(chan struct{})
	to := serve(t, server, func(_ context.Context, r *Request, send func([]byte) error) error {
		close(begun)
		<-proceed
		return send(r.Payload)
	})
	var running sync.WaitGroup
	running.Go(func() {
		items, err := collect(t.Context(), client, to, "1", CallOptions{})
		if err != nil || len(items) != 1 {
			t.Errorf("items %q, error %v, want an answer in spite of the shutdown", items, err)
		}
	})
	<-begun
	running.Go(func() {
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the port is closed", func() bool {
		_, err := collect(t.Context(), client, to, "1", CallOptions{})
		return err != nil
	})
	close(proceed)
	running.Wait()
	if _, err := server.Handle("other", echo); !errors.Is(err, ErrClosed) {
		t.Errorf("error %v of Handle, want ErrClosed", err)
	}
}

func TestShutdownEndsCallsWithItsContext(t *testing.T) {
	t.Parallel()
	server, client := newServer(t, ServerOptions{}), newClient(t, ClientOptions{})
	cause := make(chan error, 1)
	begun := make(chan struct{})
	to := serve(t, server, func(ctx context.Context, _ *Request, _ func([]byte) error) error {
		close(begun)
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return ctx.Err()
	})
	var running sync.WaitGroup
	running.Go(func() {
		_, err := collect(t.Context(), client, to, "1", CallOptions{})
		expectError(t, err, ErrIncomplete)
	})
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), moment)
	defer cancel()
	expectError(t, server.Shutdown(ctx), context.DeadlineExceeded)
	expectError(t, <-cause, ErrClosed)
	running.Wait()
	if err := server.Shutdown(t.Context()); err != nil {
		t.Errorf("error %v of a second shutdown", err)
	}
}

func TestHandlersAreLimited(t *testing.T) {
	t.Parallel()
	const limit = 2
	server, client := newServer(t, ServerOptions{MaxHandlers: limit}), newClient(t, ClientOptions{})
	var running, most atomic.Int64
	proceed := make(chan struct{})
	to := serve(t, server, func(_ context.Context, r *Request, send func([]byte) error) error {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		<-proceed
		return send(r.Payload)
	})
	var calls sync.WaitGroup
	var answers, overloads atomic.Int64
	call := func() {
		calls.Go(func() {
			_, err := collect(t.Context(), client, to, "1", CallOptions{})
			switch {
			case err == nil:
				answers.Add(1)
			case strings.Contains(err.Error(), "Server overloaded: worker at capacity"):
				overloads.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	for range limit * (1 + queueFactor) {
		call()
	}
	eventually(t, "the queue is full", func() bool { return server.waiting.Load() == server.maxWaiting() })
	for range 10 {
		call()
	}
	eventually(t, "the other calls are refused", func() bool { return overloads.Load() == 10 })
	close(proceed)
	calls.Wait()
	if answers.Load() != limit*(1+queueFactor) || most.Load() > limit {
		t.Errorf("%d answers, %d handlers at once, want %d and at most %d", answers.Load(), most.Load(), limit*(1+queueFactor), limit)
	}
	if got := server.Stats().Overloaded; got != 10 {
		t.Errorf("%d calls counted as overload, want 10", got)
	}
}

func TestHandleAndRemove(t *testing.T) {
	t.Parallel()
	server, client := newServer(t, ServerOptions{}), newClient(t, ClientOptions{})
	remove, err := server.Handle(path, echo)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Handle(path, echo); err == nil {
		t.Error("a path was served twice")
	}
	if _, err := server.Handle("", echo); err == nil {
		t.Error("an empty path was served")
	}
	expectEcho(t, client, server.Address(path))
	remove()
	if _, err := collect(t.Context(), client, server.Address(path), "1", CallOptions{}); err == nil {
		t.Error("a removed endpoint answers")
	}
	serve(t, server, echo)
	remove() // of the former handler
	expectEcho(t, client, server.Address(path))
}

func TestIPv6(t *testing.T) {
	t.Parallel()
	server, client := newServer(t, ServerOptions{Listen: "[::1]:0"}), newClient(t, ClientOptions{Listen: "[::1]:0"})
	to := serve(t, server, echo)
	parsed, err := ParseAddress(to.String())
	if err != nil || parsed != to {
		t.Fatalf("%v, error %v, want %v", parsed, err, to)
	}
	expectEcho(t, client, parsed)
}

func TestServerThatIsGone(t *testing.T) {
	t.Parallel()
	server, client := newServer(t, ServerOptions{}), newClient(t, ClientOptions{})
	to := serve(t, server, echo)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if items, err := collect(t.Context(), client, to, "1", CallOptions{}); err == nil {
		t.Errorf("items %q, want an error", items)
	}
}
