//go:build cgo && !nozmq

package rawzmq

import (
	"encoding/binary"
	"errors"
	"os"
	"regexp"
	"slices"
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
	c := open(t)
	endpoint := c.endpoint()
	a, err := c.pairEnd(endpoint, (*Socket).Bind)
	a = closing(t, a, err)
	b, err = c.pairEnd(endpoint, (*Socket).Connect)
	return a, closing(t, b, err)
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

// waiter returns a waiter for s that the test closes.
func waiter(t *testing.T, s *Socket) *Waiter {
	t.Helper()
	w, err := s.NewWaiter()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func TestWaiter(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	w, r := waiter(t, b), receiver(t, b)
	received := 0
	all := func() bool {
		for r.Each(func(*Message) { received++ }) {
		}
		return received >= 1000
	}
	if err := w.SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := w.Wait(all); !errors.Is(err, os.ErrDeadlineExceeded) || received > 0 {
		t.Fatalf("nothing was sent: %v, received %d, want a deadline exceeded", err, received)
	}
	if err := w.SetDeadline(time.Now().Add(waittest.Patience)); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		var err error
		for range 1000 {
			err = errors.Join(err, a.SendFrame(nil, false))
		}
		sent <- err
	}()
	if err := w.Wait(all); err != nil || received != 1000 {
		t.Errorf("%v, received %d, want 1000", err, received)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if b.HasInput() {
		t.Error("there is something to receive after all was received")
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
	m, err := client.Monitor(Connected | HandshakeSucceeded | Disconnected)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Connect(endpoint); err != nil {
		t.Fatal(err)
	}
	var events []Event
	w := waiter(t, m.Socket())
	if err := w.SetDeadline(time.Now().Add(waittest.Patience)); err != nil {
		t.Fatal(err)
	}
	err = w.Wait(func() bool {
		m.Each(func(e Event) { events = append(events, e) })
		return len(events) > 1
	})
	if err != nil || len(events) < 2 {
		t.Fatalf("%v, got %+v, want the connection and its handshake", err, events)
	}
	fd := events[0].Value
	if want := []Event{{Connected, fd, endpoint}, {HandshakeSucceeded, 0, endpoint}}; !slices.Equal(events, want) || fd <= 0 {
		t.Errorf("got %+v, want %+v", events, want)
	}
	expectSource(t, server, client, fd)
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

// expectSource checks that a message of server shows the connection that it came on.
func expectSource(t *testing.T, server, client *Socket, fd int) {
	t.Helper()
	r, sources := receiver(t, client), []int(nil)
	if err := client.Subscribe(""); err != nil {
		t.Fatal(err)
	}
	waittest.Eventually(t, "a message is received", func() bool {
		if err := server.SendFrame(nil, false); err != nil {
			t.Fatal(err)
		}
		r.Each(func(m *Message) { sources = append(sources, m.Source()) })
		return len(sources) > 0
	})
	if sources[0] != fd || (&Message{}).Source() != -1 {
		t.Errorf("the message came on connection %d, want %d", sources[0], fd)
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
		"set":        {s.Set(XPubVerboser, -1), syscall.EINVAL, "set XPUB_VERBOSER to -1: invalid argument"},
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
