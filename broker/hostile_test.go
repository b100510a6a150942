//go:build cgo && !nozmq

package broker_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/internal/waittest"
)

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
	hostile := handshake(t, b.XSubEndpoint(), "PUB")
	if _, err := hostile.Write(bytes.Repeat([]byte{0, 1, 'x'}, 10_000)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(hostile.(*net.TCPConn).SetLinger(0), hostile.Close()); err != nil {
		t.Fatal(err)
	}
	// A thread of libzmq serves all connections: when this one has had two
	// heartbeats, one of the other was due.
	sub := handshake(t, b.XPubEndpoint(), "SUB")
	defer sub.Close()
	_ = sub.SetReadDeadline(time.Now().Add(waittest.Patience))
	for range 2 {
		ping := make([]byte, len("\x04\x07\x04PING\x00\x00"))
		if _, err := io.ReadFull(sub, ping); err != nil || !bytes.Contains(ping, []byte("PING")) {
			t.Fatalf("got %q, %v, want a heartbeat", ping, err)
		}
		if _, err := sub.Write([]byte("\x04\x05\x04PONG")); err != nil {
			t.Fatal(err)
		}
	}
}

// rawSubscriber connects by hand and sends frame, in the form of the wire. It
// reads nothing after the handshake.
func rawSubscriber(t *testing.T, b *broker.Broker, frame []byte) net.Conn {
	t.Helper()
	c := handshake(t, b.XPubEndpoint(), "SUB")
	if _, err := c.Write(frame); err != nil {
		t.Logf("disconnected already: %v", err)
	}
	return c
}

// handshake connects and does the handshake of ZMTP 3.0, mechanism NULL.
func handshake(t *testing.T, endpoint, socketType string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(endpoint, "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	greeting := make([]byte, 64)
	copy(greeting, []byte{0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'N', 'U', 'L', 'L'})
	ready := append([]byte("\x05READY\x0bSocket-Type\x00\x00\x00"), byte(len(socketType)))
	ready = append(ready, socketType...)
	if _, err := c.Write(slices.Concat(greeting, []byte{4, byte(len(ready))}, ready)); err != nil {
		t.Fatal(err)
	}
	size := make([]byte, len(greeting)+2) // to the size of the peer's READY
	if _, err := io.ReadFull(c, size); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, size[len(size)-1])); err != nil {
		t.Fatal(err)
	}
	return c
}
