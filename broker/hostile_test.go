//go:build cgo && !nozmq

package broker_test

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/internal/zmtptest"
)

// TestSubscribersCannotSilenceTheBroker sends unsubscriptions of topics without a
// subscription. libzmq 4.3 passes them on; forwarded, they would end the
// broker's own subscription.
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
			defer c.Close() // stays open in the middle of its handshake
			if _, err := c.Write(bytes); err != nil {
				t.Logf("disconnected already: %v", err)
			}
		}
	}
	send(t, publisher(t, b), make([]byte, 65<<20))
	long := rawSubscriber(t, b, append([]byte{2, 0, 0, 0, 0, 0, 16, 0, 1, 1}, make([]byte, 1<<20)...))
	defer long.Close()
	send(t, peer(t, zmq.REQ, b.XPubEndpoint()), "hello")
	await(t, pub, sub, "after")
}

// TestStalledSubscriber has a subscriber that does not read: the others still
// receive every message, the overflow is counted, and the broker stops.
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
			t.Fatalf("message %d is truncated", i)
		}
		if i > 10_000 {
			t.Fatal("no overflow was counted for a subscriber that never reads")
		}
	}
	await(t, pub, sub, "after")
	stop()
}

// TestPublisherCannotAbortTheBroker sends more messages than libzmq queues to a
// broker that does not relay them, and resets the connection. libzmq aborts the
// process at its next heartbeat if it has stopped reading from a connection that
// ends (libzmq issue 4364).
func TestPublisherCannotAbortTheBroker(t *testing.T) {
	t.Parallel()
	b, err := broker.New(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	hostile := zmtptest.Dial(t, b.XSubEndpoint(), "PUB")
	if _, err := hostile.Write(bytes.Repeat([]byte{0, 1, 'x'}, 10_000)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(hostile.SetLinger(0), hostile.Close()); err != nil {
		t.Fatal(err)
	}
	// A thread of libzmq serves all connections: when this one has had two
	// heartbeats, one of the other was due.
	if err := zmtptest.AnswerHeartbeats(zmtptest.Dial(t, b.XPubEndpoint(), "SUB"), 2); err != nil {
		t.Fatal(err)
	}
}

// rawSubscriber connects, and writes frame as it is. It does not read after the
// handshake.
func rawSubscriber(t *testing.T, b *broker.Broker, frame []byte) net.Conn {
	t.Helper()
	c := zmtptest.Dial(t, b.XPubEndpoint(), "SUB")
	if _, err := c.Write(frame); err != nil {
		t.Logf("disconnected already: %v", err)
	}
	return c
}
