//go:build cgo && !nozmq

package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	zmq "github.com/pebbe/zmq4"
	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// start runs a broker until the test ends, or the function returned is called.
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
		case <-time.After(patience):
			t.Fatal("Run does not end")
		}
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	t.Cleanup(stop)
	return b, stop
}

// peer opens a socket of another implementation's making, so to speak.
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
	err = errors.Join(s.SetLinger(200*time.Millisecond), s.SetRcvtimeo(patience), s.SetSndhwm(0), s.SetRcvhwm(0),
		s.SetIpv6(strings.Contains(endpoint, "[")))
	if kind == zmq.SUB {
		err = errors.Join(err, s.SetSubscribe(""))
	}
	if err := errors.Join(err, s.Connect(endpoint)); err != nil {
		t.Fatal(err)
	}
	return s
}

func publisher(t testing.TB, b *broker.Broker) *zmq.Socket { return peer(t, zmq.PUB, b.XSubEndpoint()) }
func subscriber(t testing.TB, b *broker.Broker) *zmq.Socket {
	return peer(t, zmq.SUB, b.XPubEndpoint())
}

func send(t testing.TB, s *zmq.Socket, parts ...any) {
	t.Helper()
	if _, err := s.SendMessage(parts...); err != nil {
		t.Fatal(err)
	}
}

// await publishes until sub hears it. What else arrives is thrown away.
func await(t testing.TB, pub, sub *zmq.Socket, mark string) {
	t.Helper()
	poller := zmq.NewPoller()
	poller.Add(sub, zmq.POLLIN)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		send(t, pub, "probe", mark)
		if _, err := poller.Poll(20 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		for {
			parts, err := sub.RecvMessage(zmq.DONTWAIT)
			if err != nil {
				break
			}
			if len(parts) == 2 && parts[1] == mark {
				return
			}
		}
	}
	t.Fatal("a subscriber of the broker hears nothing")
}

// next returns the next message that is no probe.
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
		var heard [publishers]int
		for range publishers * each {
			m := next(t, sub)
			i, j := m[1][0], int(m[2][0])|int(m[2][1])<<8
			if len(m) != 4 || string(m[0]) != "kv-events" || j != heard[i] || !bytes.Equal(m[3], body) {
				t.Fatalf("publisher %d: got %d frames, message %d, want 4 and %d, unchanged", i, len(m), j, heard[i])
			}
			heard[i]++
		}
	}
}

func TestFramesPassUnchanged(t *testing.T) {
	t.Parallel()
	b, _ := start(t, broker.Options{})
	pub, sub := publisher(t, b), subscriber(t, b)
	await(t, pub, sub, "ready")
	for _, want := range [][]any{{"one"}, {""}, {"", "", ""}, {"a", "", bytes.Repeat([]byte("b"), 3<<20)}, manyFrames(1000)} {
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

func manyFrames(n int) []any {
	var parts []any
	for i := range n {
		parts = append(parts, fmt.Sprint("frame ", i))
	}
	return parts
}

// libzmq 4.3 passes on the unsubscription of what was never subscribed to:
// relayed, it would end the broker's own subscription.
func TestSubscribersCannotSilenceTheBroker(t *testing.T) {
	t.Parallel()
	b, _ := start(t, broker.Options{})
	pub, sub := publisher(t, b), subscriber(t, b)
	for _, frame := range [][]byte{{0, 1, 0}, {0, 1, 1, 0, 1, 0, 0, 1, 0}, {0, 2, 0, 'k'}, {0, 2, 2, 3}, {0, 0}} {
		defer rawSubscriber(t, b, frame).Close()
	}
	await(t, pub, sub, "first")
	if err := errors.Join(sub.SetUnsubscribe(""), sub.SetSubscribe("probe")); err != nil {
		t.Fatal(err)
	}
	await(t, pub, sub, "again")
}

func TestHostilePeers(t *testing.T) {
	t.Parallel()
	b, _ := start(t, broker.Options{})
	pub, sub := publisher(t, b), subscriber(t, b)
	await(t, pub, sub, "before")
	junk := [][]byte{
		[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		bytes.Repeat([]byte{0xff}, 4096),
		make([]byte, 4096),
		append([]byte{0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0}, make([]byte, 100)...),
	}
	for _, endpoint := range []string{b.XSubEndpoint(), b.XPubEndpoint()} {
		for _, bytes := range junk {
			c, err := net.Dial("tcp", strings.TrimPrefix(endpoint, "tcp://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close() // stays open, half way through its handshake
			if _, err := c.Write(bytes); err != nil {
				t.Logf("cut off already: %v", err)
			}
		}
	}
	send(t, publisher(t, b), make([]byte, 65<<20))
	long := rawSubscriber(t, b, append([]byte{2, 0, 0, 0, 0, 0, 16, 0, 1, 1}, make([]byte, 1<<20)...))
	defer long.Close()
	send(t, peer(t, zmq.REQ, b.XPubEndpoint()), "hello")
	await(t, pub, sub, "after")
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
	waitFor(t, func() bool { return b.Stats().Messages == before.Messages+n })
	if got, want := b.Stats().Bytes-before.Bytes, uint64(n*(9+8+8+100)); got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
	if got := b.Stats().Overflows; got != 0 {
		t.Errorf("%d overflows without load", got)
	}
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}

// One subscriber does not read: the others still hear everything, the
// overflow is counted, and the broker stops all the same.
func TestStalledSubscriber(t *testing.T) {
	t.Parallel()
	b, stop := start(t, broker.Options{HWM: 100})
	pub, sub := publisher(t, b), subscriber(t, b)
	await(t, pub, sub, "ready")
	raw := rawSubscriber(t, b, []byte{0, 1, 1}) // subscribes to everything
	defer raw.Close()
	for i := 0; b.Stats().Overflows == 0; i++ {
		send(t, pub, "kv-events", make([]byte, 64<<10))
		if m := next(t, sub); len(m) != 2 || len(m[1]) != 64<<10 {
			t.Fatalf("message %d is cut", i)
		}
		if i > 10_000 {
			t.Fatal("a subscriber that never reads is never found full")
		}
	}
	await(t, pub, sub, "after")
	stop()
}

// rawSubscriber connects by hand and sends frame, in the form of the wire. It
// reads nothing after the handshake.
func rawSubscriber(t *testing.T, b *broker.Broker, frame []byte) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(b.XPubEndpoint(), "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	greeting := make([]byte, 64) // ZMTP 3.0, mechanism NULL
	copy(greeting, []byte{0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'N', 'U', 'L', 'L'})
	ready := []byte("\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB")
	if _, err := c.Write(append(append(greeting, 4, byte(len(ready))), ready...)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, len(greeting)+len(ready))); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(frame); err != nil {
		t.Logf("cut off already: %v", err)
	}
	return c
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
		"negative IO":  {broker.Options{IOThreads: -1}, nil, "IOThreads -1"},
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
		t.Errorf("second Run: %v, want a refusal", err)
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
