//go:build cgo && !nozmq

package zmq_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/eventplane/driver"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/waittest"
)

// peer opens a socket of zmq4, as an implementation of its own.
func peer(t testing.TB, kind zmq.Type) *zmq.Socket {
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
	err = errors.Join(s.SetLinger(200*time.Millisecond), s.SetSndhwm(0), s.SetRcvhwm(0), s.SetRcvtimeo(waittest.Patience))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// peerPublisher returns a bound PUB socket and its endpoint.
func peerPublisher(t testing.TB) (*zmq.Socket, string) {
	t.Helper()
	s := peer(t, zmq.PUB)
	if err := s.Bind("tcp://127.0.0.1:*"); err != nil {
		t.Fatal(err)
	}
	endpoint, err := s.GetLastEndpoint()
	if err != nil {
		t.Fatal(err)
	}
	return s, endpoint
}

func send(t testing.TB, s *zmq.Socket, parts ...string) {
	t.Helper()
	if _, err := s.SendMessage(parts); err != nil {
		t.Fatal(err)
	}
}

// event returns a well-formed message with that body.
func event(body string) []string {
	return []string{"kv-events", "\x00\x00\x00\x00\x00\x00\x30\x39", "\x00\x00\x00\x00\x00\x00\x00\x2a",
		"\x01\x00\x00\x00" + string(rune(len(body))) + body}
}

// await sends until sub receives a message with that body, and returns the
// reasons of the FrameErrors before it.
func await(t testing.TB, s *zmq.Socket, sub *zmqdriver.Subscriber, body string) (malformed []string) {
	t.Helper()
	waittest.Eventually(t, fmt.Sprintf("%q is received", body), func() bool {
		send(t, s, event(body)...)
		for {
			m, err := next(t, sub, 20*time.Millisecond)
			if bad, ok := errors.AsType[*driver.FrameError](err); ok {
				malformed = append(malformed, bad.Reason)
				continue
			}
			if err != nil || string(m.Body) == body {
				return err == nil
			}
		}
	})
	return malformed
}

// next returns the next event, or an error after which a stream continues, and fails
// on others.
func next(t testing.TB, sub *zmqdriver.Subscriber, within time.Duration) (driver.Message, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var m driver.Message
	err := sub.Next(ctx, &m)
	for err == nil && m.Kind != driver.Event {
		err = sub.Next(ctx, &m)
	}
	var bad *driver.FrameError
	if err != nil && !errors.As(err, &bad) && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	return m, err
}

func awaitReady(t testing.TB, c interface{ Ready(context.Context) error }) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestWireFormat(t *testing.T) {
	t.Parallel()
	pub := directPublisher(t, open(t, zmqdriver.Options{}))
	sub := peer(t, zmq.SUB)
	if err := errors.Join(sub.SetSubscribe(""), sub.Connect(pub.Endpoint())); err != nil {
		t.Fatal(err)
	}
	poller := zmq.NewPoller()
	poller.Add(sub, zmq.POLLIN)
	for ready := 0; ready == 0; {
		m := driver.Message{Subject: "test-topic", PublisherID: 12345, Sequence: 42, Body: []byte("payload")}
		if err := pub.Publish(t.Context(), &m); err != nil {
			t.Fatal(err)
		}
		polled, err := poller.Poll(20 * time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		ready = len(polled)
	}
	got, err := sub.RecvMessageBytes(0)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"746573742d746f706963", "0000000000003039", "000000000000002a", "01000000077061796c6f6164"}
	for i, frame := range got {
		if i >= len(want) || hex.EncodeToString(frame) != want[i] {
			t.Errorf("frame %d: %x, want %v", i, frame, want)
		}
	}
}

func TestMalformedMessagesAreErrors(t *testing.T) {
	t.Parallel()
	const id = "12345678"
	for name, c := range map[string]struct {
		frames []string
		want   string // "" if the message is skipped
	}{
		"one frame":       {[]string{"kv-events"}, "1 frames: want 4"},
		"three frames":    {[]string{"kv-events", id, id}, "3 frames: want 4"},
		"five frames":     {[]string{"kv-events", id, id, "\x01\x00\x00\x00\x00", "x"}, "5 frames: want 4"},
		"short id":        {[]string{"kv-events", "1234567", id, "\x01\x00\x00\x00\x00"}, "publisher id of 7 bytes"},
		"long sequence":   {[]string{"kv-events", id, id + "9", "\x01\x00\x00\x00\x00"}, "sequence of 9"},
		"no header":       {[]string{"kv-events", id, id, "\x01\x00\x00\x00"}, "last frame of 4 bytes"},
		"empty":           {[]string{"kv-events", id, id, ""}, "last frame of 0 bytes"},
		"version":         {[]string{"kv-events", id, id, "\x02\x00\x00\x00\x00"}, "version 2: want 1"},
		"length":          {[]string{"kv-events", id, id, "\x01\xff\xff\xff\xff1234"}, "body of 4 bytes: want the 4294967295 that the header announces"},
		"longer topic":    {[]string{"kv-events2", id}, ""},
		"huge topic":      {[]string{"kv-events" + strings.Repeat("x", 3<<20), "", ""}, ""},
		"many big frames": {[]string{"kv-events", strings.Repeat("x", 3<<20), strings.Repeat("x", 3<<20), "", "", ""}, "6 frames: want 4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, endpoint := peerPublisher(t)
			sub := subscribe(t, open(t, zmqdriver.Options{}), "kv-events")
			connect(t, sub, endpoint)
			await(t, s, sub, "before")
			send(t, s, c.frames...)
			got := strings.Join(await(t, s, sub, "after"), "; ")
			if !strings.Contains(got, c.want) || (c.want == "") != (got == "") {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestTrailingBytesAreIgnored(t *testing.T) {
	t.Parallel()
	s, endpoint := peerPublisher(t)
	sub := subscribe(t, open(t, zmqdriver.Options{}), "kv-events")
	connect(t, sub, endpoint)
	await(t, s, sub, "before")
	e := event("event")
	e[3] += "rest"
	send(t, s, e...)
	for {
		m, err := next(t, sub, waittest.Patience)
		if err != nil {
			t.Fatal(err)
		}
		if string(m.Body) == "before" {
			continue
		}
		if string(m.Body) != "event" || m.PublisherID != 12345 || m.Sequence != 42 || !m.HasIdentity {
			t.Errorf("got %+v", m)
		}
		return
	}
}

func TestPublishRefuses(t *testing.T) {
	t.Parallel()
	pub := directPublisher(t, open(t, zmqdriver.Options{MaxMessage: 1005}))
	if err := pub.Publish(t.Context(), &driver.Message{Body: make([]byte, 1000)}); err != nil {
		t.Error(err)
	}
	err := pub.Publish(t.Context(), &driver.Message{Subject: "kv-events", Body: make([]byte, 1001)})
	if err == nil || !strings.Contains(err.Error(), `"kv-events": body of 1001 bytes: want 1000 at most`) {
		t.Errorf("got %v", err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, opts := range []zmqdriver.Options{{HWM: -1}, {QueueSize: -1}, {IOThreads: -1}, {IOThreads: 65}, {MaxMessage: -1}, {MaxMessage: 4}, {MaxMessage: 5 << 30}} {
		if zc, err := zmqdriver.New(opts); err == nil {
			t.Errorf("%+v is accepted", opts)
			_ = zc.Close()
		}
	}
}

func TestContextClosesAll(t *testing.T) {
	t.Parallel()
	zc := open(t, zmqdriver.Options{})
	direct, sub := directPublisher(t, zc), subscribe(t, zc, "kv-events")
	brokered := brokerPublisher(t, zc, "kv-events")
	connect(t, sub, "tcp://127.0.0.1:1")
	connect(t, brokered, "tcp://127.0.0.1:1")
	body := bytes.Repeat([]byte("x"), 1000)
	for range 1000 {
		if err := brokered.Publish(t.Context(), &driver.Message{Subject: "kv-events", Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := zc.Close(); err != nil {
			t.Error(err)
		}
	}
	_, bindErr := zc.DirectPublisher("127.0.0.1", "kv-events", 1)
	_, dialErr := zc.BrokerPublisher("kv-events")
	_, subErr := zc.Subscribe("kv-events")
	for name, err := range map[string]error{
		"DirectPublisher": bindErr, "BrokerPublisher": dialErr, "Subscribe": subErr,
		"Publish":     direct.Publish(t.Context(), &driver.Message{}),
		"PUB.Connect": brokered.Connect("tcp://127.0.0.1:1"),
		"SUB.Connect": sub.Connect("tcp://127.0.0.1:1"),
		"SUB.Ready":   sub.Ready(t.Context()),
		"PUB.Ready":   brokered.Ready(t.Context()),
	} {
		if !errors.Is(err, driver.ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", name, err)
		}
	}
}
