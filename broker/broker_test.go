//go:build cgo && !nozmq

package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	zmq "github.com/pebbe/zmq4"
	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/internal/waittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a broker until the returned function is called or the test ends.
func start(t testing.TB, opts broker.Options) (*broker.Broker, func()) {
	t.Helper()
	b, err := broker.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(waittest.Patience):
			t.Fatal("Run does not end")
		}
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	t.Cleanup(stop)
	return b, stop
}

// peer opens a socket of zmq4, as an implementation of its own.
func peer(t testing.TB, kind zmq.Type, endpoint string) *zmq.Socket {
	t.Helper()
	zctx, err := zmq.NewContext()
	if err != nil {
		t.Fatal(err)
	}
	s, err := zctx.NewSocket(kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(s.Close(), zctx.Term()) })
	err = errors.Join(s.SetLinger(200*time.Millisecond), s.SetRcvtimeo(waittest.Patience), s.SetSndhwm(0), s.SetRcvhwm(0),
		s.SetIpv6(strings.Contains(endpoint, "[")))
	if kind == zmq.SUB {
		err = errors.Join(err, s.SetSubscribe(""))
	}
	if err := errors.Join(err, s.Connect(endpoint)); err != nil {
		t.Fatal(err)
	}
	return s
}

func publisher(t testing.TB, b *broker.Broker) *zmq.Socket {
	t.Helper()
	return peer(t, zmq.PUB, b.XSubEndpoint())
}

func subscriber(t testing.TB, b *broker.Broker) *zmq.Socket {
	t.Helper()
	return peer(t, zmq.SUB, b.XPubEndpoint())
}

func send(t testing.TB, s *zmq.Socket, parts ...any) {
	t.Helper()
	if _, err := s.SendMessage(parts...); err != nil {
		t.Fatal(err)
	}
}

// await publishes until sub receives it. Other messages are discarded.
func await(t testing.TB, pub, sub *zmq.Socket, mark string) {
	t.Helper()
	poller := zmq.NewPoller()
	poller.Add(sub, zmq.POLLIN)
	waittest.Eventually(t, "a subscriber of the broker receives a message", func() bool {
		send(t, pub, "probe", mark)
		if _, err := poller.Poll(20 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		for {
			parts, err := sub.RecvMessage(zmq.DONTWAIT)
			if err != nil || len(parts) == 2 && parts[1] == mark {
				return err == nil
			}
		}
	})
}

// next returns the next message that is not a probe.
func next(t testing.TB, sub *zmq.Socket) [][]byte {
	t.Helper()
	for {
		parts, err := sub.RecvMessageBytes(0)
		if err != nil {
			t.Fatal(err)
		}
		if string(parts[0]) != "probe" {
			return parts
		}
	}
}

func TestRelay(t *testing.T) {
	t.Parallel()
	b, _ := start(t, broker.Options{})
	const publishers, subscribers, each = 4, 3, 500
	var pubs, subs []*zmq.Socket
	for range subscribers {
		subs = append(subs, subscriber(t, b))
	}
	for i := range publishers {
		pubs = append(pubs, publisher(t, b))
		for j, sub := range subs {
			await(t, pubs[i], sub, fmt.Sprint(i, j))
		}
	}
	body := bytes.Repeat([]byte{0, 1, 255}, 1000)
	for j := range each {
		for i, pub := range pubs {
			send(t, pub, "kv-events", []byte{byte(i)}, []byte{byte(j), byte(j >> 8)}, body)
		}
	}
	for _, sub := range subs {
		var received [publishers]int
		for range publishers * each {
			m := next(t, sub)
			i, j := m[1][0], int(m[2][0])|int(m[2][1])<<8
			if len(m) != 4 || string(m[0]) != "kv-events" || j != received[i] || !bytes.Equal(m[3], body) {
				t.Fatalf("publisher %d: got %d frames, message %d, want 4 and %d, unchanged", i, len(m), j, received[i])
			}
			received[i]++
		}
	}
}

func TestFramesPassUnchanged(t *testing.T) {
	t.Parallel()
	b, _ := start(t, broker.Options{})
	pub, sub := publisher(t, b), subscriber(t, b)
	await(t, pub, sub, "ready")
	for _, want := range [][]any{{"one"}, {""}, {"", "", ""}, {"a", "", bytes.Repeat([]byte("b"), 3<<20)}, manyFrames(4)} {
		send(t, pub, want...)
		got := next(t, sub)
		if len(got) != len(want) {
			t.Fatalf("got %d frames, want %d", len(got), len(want))
		}
		for i, w := range want {
			if fmt.Sprintf("%s", w) != string(got[i]) {
				t.Errorf("frame %d of %d: got %d bytes, changed", i, len(want), len(got[i]))
			}
		}
	}
}

// TestMessagesOfManyFramesAreDropped covers messages that are no events. Neither the
// messages before and after them nor what is queued is affected.
func TestMessagesOfManyFramesAreDropped(t *testing.T) {
	t.Parallel()
	b, _ := start(t, broker.Options{})
	pub, sub := publisher(t, b), subscriber(t, b)
	await(t, pub, sub, "ready")
	large := bytes.Repeat([]byte("b"), 1<<20)
	for i, parts := range [][]any{manyFrames(5), manyFrames(1000), {large, large, large, large, large}} {
		send(t, pub, parts...)
		mark := fmt.Sprint("after ", i)
		send(t, pub, mark)
		for m := next(t, sub); len(m) != 1 || string(m[0]) != mark; m = next(t, sub) {
			if len(m) != 1 || string(m[0]) != "ready" {
				t.Fatalf("got a message of %d frames: want that one of %d is dropped", len(m), len(parts))
			}
		}
		if got := b.Stats().Dropped; got != uint64(i+1) {
			t.Errorf("Dropped is %d, want %d", got, i+1)
		}
	}
	waittest.Eventually(t, "nothing is queued", func() bool { return b.Stats().Queued == 0 })
}

func manyFrames(n int) []any {
	var parts []any
	for i := range n {
		parts = append(parts, fmt.Sprint("frame ", i))
	}
	return parts
}

func TestStats(t *testing.T) {
	t.Parallel()
	b, _ := start(t, broker.Options{})
	pub, sub := publisher(t, b), subscriber(t, b)
	await(t, pub, sub, "ready")
	send(t, pub, "mark")
	next(t, sub) // every probe was relayed before it
	before := b.Stats()
	const n = 1000
	for range n {
		send(t, pub, "kv-events", make([]byte, 8), make([]byte, 8), make([]byte, 100))
	}
	for range n {
		next(t, sub)
	}
	waittest.Eventually(t, "all messages are counted", func() bool { return b.Stats().Messages == before.Messages+n })
	if got, want := b.Stats().Bytes-before.Bytes, uint64(n*(9+8+8+100)); got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
	if got := b.Stats().Overflows; got != 0 {
		t.Errorf("%d overflows, want 0 without load", got)
	}
}

func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	b, stop := start(t, broker.Options{})
	pub, sub := publisher(t, b), subscriber(t, b)
	await(t, pub, sub, "ready")
	quit, sent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sent)
		for {
			select {
			case <-quit:
				return
			default:
				_, _ = pub.SendMessage("kv-events", "12345678", "12345678", "event")
			}
		}
	}()
	for range 1000 {
		next(t, sub)
	}
	stop()
	close(quit)
	<-sent
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	for _, bind := range []string{"", "tcp://127.0.0.1:0", "tcp://127.0.0.1:*", "tcp://[::1]:0"} {
		t.Run(bind, func(t *testing.T) {
			t.Parallel()
			b, _ := start(t, broker.Options{XSubBind: bind, XPubBind: bind})
			if b.XSubEndpoint() == b.XPubEndpoint() || strings.HasSuffix(b.XSubEndpoint(), ":0") {
				t.Fatalf("got %s and %s", b.XSubEndpoint(), b.XPubEndpoint())
			}
			await(t, publisher(t, b), subscriber(t, b), "ready")
		})
	}
}

func TestNewFails(t *testing.T) {
	t.Parallel()
	taken, _ := start(t, broker.Options{})
	for name, c := range map[string]struct {
		opts broker.Options
		want error
		text string
	}{
		"port taken":   {broker.Options{XPubBind: taken.XPubEndpoint()}, syscall.EADDRINUSE, taken.XPubEndpoint()},
		"no endpoint":  {broker.Options{XSubBind: "localhost"}, syscall.EINVAL, `"localhost"`},
		"negative HWM": {broker.Options{HWM: -1}, nil, "HWM -1"},
		"negative max": {broker.Options{MaxQueued: -1}, nil, "MaxQueued -1"},
		"negative IO":  {broker.Options{IOThreads: -1}, nil, "IOThreads -1"},
		"too many IO":  {broker.Options{IOThreads: 65}, nil, "IOThreads 65: want 0 (for 1) to 64"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := broker.New(c.opts)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

func TestLifecycle(t *testing.T) {
	t.Parallel()
	b, err := broker.New(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	for range 2 {
		go func() { ended <- b.Run(context.Background()) }()
	}
	if err := <-ended; err == nil || errors.Is(err, broker.ErrClosed) {
		t.Errorf("second Run: %v, want that it was called twice", err)
	}
	for range 2 {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if err := <-ended; !errors.Is(err, broker.ErrClosed) {
			t.Errorf("Run after Close: %v, want ErrClosed", err)
		}
		ended <- b.Run(context.Background())
	}
}
