//go:build cgo && !nozmq

package rawzmq

import (
	"encoding/binary"
	"errors"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/internal/waittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network are options as callers set them.
var network = Options{SendHWM: DefaultHWM, ReceiveHWM: ReceiveHWM, MaxFrame: DefaultMaxFrame}

// open returns a context that the test terminates after it has closed sockets.
func open(t *testing.T) *Context {
	t.Helper()
	c, err := NewContext(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Term(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// closing closes s when the test ends, before the context is terminated.
func closing(t *testing.T, s *Socket, err error) *Socket {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func pair(t *testing.T) (a, b *Socket) {
	t.Helper()
	a, b, err := open(t).Pair()
	return closing(t, a, err), closing(t, b, err)
}

func receiver(t *testing.T, s *Socket) *Receiver {
	t.Helper()
	r, err := s.NewReceiver()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestReceiverBatches(t *testing.T) {
	t.Parallel()
	from, to := pair(t)
	r := receiver(t, to)
	if r.Each(func(m *Message) { t.Errorf("got %+v, want no message", m) }) {
		t.Error("an empty socket may have more")
	}
	const messages = 250
	for i := range messages {
		n := i%6 + 1 // frames, some more than are kept
		for j := range n {
			frame := binary.BigEndian.AppendUint16(nil, uint16(i*10+j))[:2*min(i%50, 1)]
			if err := from.SendFrame(frame, j < n-1); err != nil {
				t.Fatal(err)
			}
		}
	}
	received, batches := 0, 1
	check := func(m *Message) {
		if m.Count != received%6+1 {
			t.Errorf("message %d of %d frames, want %d", received, m.Count, received%6+1)
		}
		for j, frame := range m.Frames[:min(m.Count, MaxFrames)] {
			if received%50 == 0 && len(frame) != 0 || received%50 != 0 && int(binary.BigEndian.Uint16(frame)) != received*10+j {
				t.Errorf("message %d, frame %d: got %x", received, j, frame)
			}
		}
		received++
	}
	for ; r.Each(check); batches++ {
	}
	if received != messages || batches != 3 {
		t.Errorf("received %d in %d batches, want %d in 3", received, batches, messages)
	}
}

func TestSendJoinsTheLastFrame(t *testing.T) {
	t.Parallel()
	from, to := pair(t)
	r := receiver(t, to)
	large := strings.Repeat("x", 1<<20)
	for _, c := range [][5]string{
		{"topic", "12345678", "87654321", "head", "body"},
		{"", "", "", "", ""},
		{"a", "b", "c", "", "body"},
		{"a", "b", "c", "head", ""},
		{large, large, large, large, large},
	} {
		frames := [MaxFrames][]byte{[]byte(c[0]), []byte(c[1]), []byte(c[2]), []byte(c[3])}
		if err := from.Send(&frames, []byte(c[4])); err != nil {
			t.Fatal(err)
		}
		for i := range frames {
			clear(frames[i]) // Send has copied them
		}
		n := 0
		r.Each(func(m *Message) {
			n++
			for i, want := range []string{c[0], c[1], c[2], c[3] + c[4]} {
				if string(m.Frames[i]) != want {
					t.Errorf("frame %d: got %.20q of %d bytes, want %.20q of %d", i, m.Frames[i], len(m.Frames[i]), want, len(want))
				}
			}
		})
		if n != 1 {
			t.Errorf("received %d messages, want 1", n)
		}
	}
}

func TestSendDoesNotAllocate(t *testing.T) {
	s, err := open(t).Socket(PUB, network)
	s = closing(t, s, err)
	frames, body := [MaxFrames][]byte{make([]byte, 9), make([]byte, 8), make([]byte, 8), make([]byte, 5)}, make([]byte, 256)
	if n := testing.AllocsPerRun(100, func() { _ = s.Send(&frames, body) }); n != 0 {
		t.Errorf("%v allocations for each message, want 0", n)
	}
}

func TestSendFails(t *testing.T) {
	t.Parallel()
	c := open(t)
	s, err := c.Socket(SUB, network)
	s = closing(t, s, err)
	if err := s.Send(&[MaxFrames][]byte{}, nil); !errors.Is(err, syscall.ENOTSUP) {
		t.Errorf("send to a SUB: %v, want ENOTSUP", err)
	}
	if err := s.SendFrame(nil, false); !errors.Is(err, syscall.ENOTSUP) {
		t.Errorf("send a frame to a SUB: %v, want ENOTSUP", err)
	}
}

func TestPoller(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	p := NewPoller(a, b)
	start := time.Now()
	for time.Since(start) < 20*time.Millisecond { // a signal ends Wait early
		if err := p.Wait(20 * time.Millisecond); err != nil || p.Readable(0) || p.Readable(1) {
			t.Fatalf("nothing was sent: %v, readable %v and %v", err, p.Readable(0), p.Readable(1))
		}
	}
	if err := errors.Join(a.SendFrame(nil, false), a.SendFrame([]byte("second"), false)); err != nil {
		t.Fatal(err)
	}
	for !p.Readable(1) {
		if err := p.Wait(-1); err != nil {
			t.Fatal(err)
		}
	}
	if p.Readable(0) {
		t.Error("the sender is readable")
	}
	b.Discard()
	if err := p.Wait(0); err != nil || p.Readable(1) {
		t.Errorf("after Discard: %v, readable %v", err, p.Readable(1))
	}
}

func TestSharedSocketIsReadable(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	p := NewPoller(a)
	if err := p.AddShared(b); err != nil {
		t.Fatal(err)
	}
	b.Discard() // what the pair did so far
	if err := a.SendFrame(nil, false); err != nil {
		t.Fatal(err)
	}
	for !p.Readable(1) {
		if err := p.Wait(-1); err != nil {
			t.Fatal(err)
		}
	}
	b.Discard()
	if err := p.Wait(0); err != nil || p.Readable(1) {
		t.Errorf("after Discard: %v, readable %v", err, p.Readable(1))
	}
}

func TestMonitor(t *testing.T) {
	t.Parallel()
	c := open(t)
	server, err := c.Socket(PUB, network)
	server = closing(t, server, err)
	if err := server.Bind("tcp://127.0.0.1:*"); err != nil {
		t.Fatal(err)
	}
	endpoint, err := server.LastEndpoint()
	if err != nil {
		t.Fatal(err)
	}
	client, err := c.Socket(SUB, network)
	client = closing(t, client, err)
	m, err := client.Monitor(HandshakeSucceeded | Disconnected)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Connect(endpoint); err != nil {
		t.Fatal(err)
	}
	var events []Event
	p := NewPoller(m.Socket())
	waittest.Eventually(t, "the handshake is reported", func() bool {
		if err := p.Wait(time.Second); err != nil {
			t.Fatal(err)
		}
		m.Each(func(e Event) { events = append(events, e) })
		return len(events) > 0
	})
	if want := (Event{HandshakeSucceeded, endpoint}); events[0] != want {
		t.Errorf("got %+v, want %+v", events[0], want)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if m, err = client.Monitor(Disconnected); err != nil {
		t.Fatalf("a second monitor after the first: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestMalformedEventsAreSkipped(t *testing.T) {
	t.Parallel()
	for _, m := range []Message{{}, {Count: 1}, {Count: 2}, {Count: 2, Frames: [MaxFrames][]byte{make([]byte, 5)}}} {
		if e := decodeEvent(&m); e != (Event{}) {
			t.Errorf("%+v: got %+v, want none", m, e)
		}
	}
}

func TestErrorsAreSystemErrors(t *testing.T) {
	t.Parallel()
	c := open(t)
	s, err := c.Socket(XPUB, network)
	s = closing(t, s, err)
	for name, f := range map[string]struct {
		err  error
		want syscall.Errno
		text string
	}{
		"bind":       {s.Bind("localhost"), syscall.EINVAL, "invalid argument"},
		"connect":    {s.Connect("tcp://a b:1"), syscall.EINVAL, "invalid argument"},
		"disconnect": {s.Disconnect("tcp://127.0.0.1:1"), syscall.ENOENT, "no such file"},
		"set":        {s.Set(XPubVerbose, -1), syscall.EINVAL, "set XPUB_VERBOSE to -1: invalid argument"},
		"unknown":    {s.Set(Option(9999), 1), syscall.EINVAL, "set option 9999 to 1: invalid argument"},
		"subscribe":  {s.Subscribe(""), syscall.EINVAL, "invalid argument"},
		"libzmq":     {failure(syscall.Errno(156384765)), 156384765, "Context was terminated: errno"},
	} {
		if !errors.Is(f.err, f.want) || !strings.Contains(f.err.Error(), f.text) {
			t.Errorf("%s: got %v, want %v with %q", name, f.err, f.want, f.text)
		}
	}
	if _, err := c.open(9999); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a kind that does not exist: %v, want EINVAL", err)
	}
	if _, err := NewContext(-1); !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "use -1 threads") {
		t.Errorf("-1 threads: %v, want EINVAL", err)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if v := Version(); !regexp.MustCompile(`^4\.\d+\.\d+$`).MatchString(v) {
		t.Errorf("got %s, want 4", v)
	}
}
