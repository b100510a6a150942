//go:build cgo && !nozmq

package zmq_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/eventplane/drivertest"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/internal/zmtptest"
)

// TestIdlePublisherForgetsSubscribers has many subscribers that come and go while
// nothing is published. libzmq keeps their pipes until the socket is used.
func TestIdlePublisherForgetsSubscribers(t *testing.T) {
	t.Parallel()
	zmtptest.InChild(t, func() {
		pub := directPublisher(t, open(t, zmqdriver.Options{}))
		const subscribers, limit = 10_000, 64 << 20
		before := resident(t)
		for range subscribers {
			c := zmtptest.Dial(t, pub.Endpoint(), "SUB")
			if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
				t.Fatal(err)
			}
		}
		if got := resident(t) - before; got > limit {
			t.Errorf("%d subscribers that are gone cost %d MiB, want at most %d", subscribers, got>>20, limit>>20)
		}
	})
}

// TestFloodOfSubscriptions has a peer that subscribes and unsubscribes without end. It
// is disconnected: libzmq would not return from a call while it goes on.
func TestFloodOfSubscriptions(t *testing.T) {
	t.Parallel()
	zmtptest.InChild(t, func() {
		zc := open(t, zmqdriver.Options{})
		pub, sub := directPublisher(t, zc), subscribe(t, zc, "kv-events")
		before, limit := resident(t), 400<<20
		hostile := zmtptest.Dial(t, pub.Endpoint(), "SUB")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			frames := bytes.Repeat([]byte{0, 2, 1, 'x', 0, 2, 0, 'x'}, 1000)
			for {
				if _, err := hostile.Write(frames); err != nil {
					return
				}
			}
		}()
		_ = hostile.SetReadDeadline(time.Now().Add(waittest.Patience))
		if _, err := io.Copy(io.Discard, hostile); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the peer is not disconnected")
		}
		_ = hostile.Close()
		<-ended
		if err := sub.ConnectProving(pub.Endpoint()); err != nil {
			t.Fatal(err)
		}
		awaitReady(t, sub)
		publish(t, pub, driver.Message{PublisherID: 1, Sequence: 3})
		if m := nextKind(t, sub, driver.Event); m.Sequence != 3 {
			t.Errorf("got event %d, want 3", m.Sequence)
		}
		if got := resident(t) - before; got > limit {
			t.Errorf("a flood costs %d MiB, want at most %d", got>>20, limit>>20)
		}
	})
}

// TestReplayIsBoundedInBytes has a client that requests large events over and over and
// reads nothing.
func TestReplayIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	zmtptest.InChild(t, func() {
		pub := directPublisher(t, open(t, zmqdriver.Options{}))
		r := drivertest.Serve(t, pub, drivertest.NewHistory(0, 64, 1<<20))
		before, limit := resident(t), 128<<20
		c := zmtptest.Dial(t, r.Address, "DEALER")
		all := "\x01\x00\x01\x08" + u64(0) + "\x00\x08" + u64(math.MaxUint64)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for range 40 { // about as long as the server waits for a client
			if _, err := io.WriteString(c, all); err != nil {
				break // the kernel has ended the connection
			}
			if got := resident(t) - before; got > limit {
				t.Fatalf("a client that reads nothing costs %d MiB, want at most %d", got>>20, limit>>20)
			}
			<-tick.C
		}
	})
}

// resident returns the memory of this process in bytes.
func resident(t *testing.T) int {
	t.Helper()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
