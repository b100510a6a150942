//go:build cgo && !nozmq

package rawzmq

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/internal/zmtptest"
)

// TestQueued has a publisher and a subscriber that does not read. The counter
// outlives the socket and its context, and returns to 0.
func TestQueued(t *testing.T) {
	t.Parallel()
	c, err := NewContext(1)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := c.Socket(PUB, network)
	if err != nil {
		t.Fatal(err)
	}
	if err := pub.Bind("tcp://127.0.0.1:*"); err != nil {
		t.Fatal(err)
	}
	endpoint, err := pub.LastEndpoint()
	if err != nil {
		t.Fatal(err)
	}
	other := open(t)
	sub, err := other.Socket(SUB, Options{ReceiveHWM: 1, MaxFrame: DefaultMaxFrame})
	sub = closing(t, sub, err)
	if err := sub.Subscribe(""); err != nil {
		t.Fatal(err)
	}
	if err := sub.Connect(endpoint); err != nil {
		t.Fatal(err)
	}
	frames, body := [MaxFrames][]byte{{1}, {2}, {3}, {4}}, make([]byte, 1<<20)
	waittest.Eventually(t, "large frames wait", func() bool {
		if err := pub.Send(&frames, body); err != nil {
			t.Fatal(err)
		}
		return pub.Queued() > 16<<20
	})
	before := pub.Queued()
	for range 1000 {
		if err := pub.Send(&frames, body[:LargeFrame-2]); err != nil {
			t.Fatal(err)
		}
	}
	if got := pub.Queued(); got > before {
		t.Errorf("small frames were counted: %d bytes after %d", got, before)
	}
	q := pub.queue
	references := (*int64)(unsafe.Pointer(&q.ptr.references))
	atomic.AddInt64(references, 1) // keeps it
	defer q.Release()
	if err := pub.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Term(); err != nil {
		t.Fatal(err)
	}
	if n := atomic.LoadInt64(references); n != 1 || q.Bytes() != 0 {
		t.Errorf("%d references, %d bytes after the context was terminated: want 1 and 0", n, q.Bytes())
	}
}

// TestShutdown ends one of two connections, and nothing else.
func TestShutdown(t *testing.T) {
	t.Parallel()
	c := open(t)
	pub, err := c.Socket(PUB, network)
	pub = closing(t, pub, err)
	m, err := pub.Monitor(Accepted | HandshakeSucceeded)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := pub.Bind("tcp://127.0.0.1:*"); err != nil {
		t.Fatal(err)
	}
	endpoint, err := pub.LastEndpoint()
	if err != nil {
		t.Fatal(err)
	}
	address := netip.MustParseAddrPort(strings.TrimPrefix(endpoint, "tcp://"))
	port := int(address.Port())
	first, second := zmtptest.Dial(t, endpoint, "SUB"), zmtptest.Dial(t, endpoint, "SUB")
	var accepted []int
	waittest.Eventually(t, "both connections are reported", func() bool {
		m.Each(func(e Event) {
			if e.Kind == Accepted {
				accepted = append(accepted, e.Value)
			}
		})
		return len(accepted) == 2
	})
	if Shutdown(accepted[0], port+1) || Shutdown(-1, port) || Shutdown(0, port) {
		t.Error("shut down something else")
	}
	if _, waiting := Progress(accepted[0]); waiting {
		t.Error("bytes wait for a peer that has acknowledged all")
	}
	if !Shutdown(accepted[0], port) {
		t.Error("not shut down")
	}
	_ = first.SetReadDeadline(time.Now().Add(waittest.Patience))
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection that was shut down: %v: want its end", err)
	}
	_ = second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the other connection: %v: want it open", err)
	}
}
