//go:build cgo && !nozmq

package zmq_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/waittest"
)

// rawSubscriber connects to a publisher and does the handshake of ZMTP 3.0,
// mechanism NULL, as a SUB.
func rawSubscriber(t *testing.T, pub *zmqdriver.Publisher) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(pub.Endpoint(), "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	greeting := make([]byte, 64)
	copy(greeting, []byte{0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'N', 'U', 'L', 'L'})
	ready := []byte("\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB")
	_, err1 := conn.Write(slices.Concat(greeting, []byte{4, byte(len(ready))}, ready))
	_, err2 := io.ReadFull(conn, make([]byte, len(greeting)+2+len(ready)))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// TestSubscriberCannotAbortAnIdlePublisher sends more subscriptions than libzmq
// queues to a publisher that does not publish, and resets the connection.
// libzmq aborts the process at its next heartbeat if it has stopped reading from
// such a connection (libzmq issue 4364).
func TestSubscriberCannotAbortAnIdlePublisher(t *testing.T) {
	t.Parallel()
	pub := bind(t, open(t, zmqdriver.Options{}))
	hostile := rawSubscriber(t, pub)
	if _, err := hostile.Write(bytes.Repeat([]byte{0, 1, 1}, 100_000)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(hostile.SetLinger(0), hostile.Close()); err != nil {
		t.Fatal(err)
	}
	// A thread of libzmq serves all connections: when this one has had two
	// heartbeats, the other one's was due.
	conn := rawSubscriber(t, pub)
	_ = conn.SetReadDeadline(time.Now().Add(waittest.Patience))
	ping := []byte("\x04\x07\x04PING\x00\x00")
	for range 2 {
		got := make([]byte, len(ping))
		if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, ping) {
			t.Fatalf("got %q, %v, want %q", got, err, ping)
		}
		if _, err := conn.Write([]byte("\x04\x05\x04PONG")); err != nil {
			t.Fatal(err)
		}
	}
	if err := pub.Publish(t.Context(), &driver.Message{Subject: "kv-events"}); err != nil {
		t.Error(err)
	}
}
