// Package zmtptest has ZeroMQ peers without libzmq, for tests: only the test
// reads from their connections and writes to them.
package zmtptest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/waittest"
)

// Dial connects to an endpoint and does the handshake. The connection is closed
// when the test ends, or by the test.
func Dial(t testing.TB, endpoint, socketType string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(endpoint, "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := Handshake(conn, socketType); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// Handshake does the handshake of ZMTP 3.0, mechanism NULL, as a socket of a
// type such as SUB.
func Handshake(conn net.Conn, socketType string) error {
	greeting := make([]byte, 64)
	copy(greeting, []byte{0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'N', 'U', 'L', 'L'})
	ready := slices.Concat([]byte("\x05READY\x0bSocket-Type\x00\x00\x00"), []byte{byte(len(socketType))}, []byte(socketType))
	if _, err := conn.Write(slices.Concat(greeting, []byte{4, byte(len(ready))}, ready)); err != nil {
		return err
	}
	size := make([]byte, len(greeting)+2) // up to the size of the peer's READY
	if _, err := io.ReadFull(conn, size); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, size[len(size)-1]))
	return err
}

// AnswerHeartbeats reads and answers n heartbeats. It fails if a message arrives
// first.
func AnswerHeartbeats(conn net.Conn, n int) error {
	if err := conn.SetReadDeadline(time.Now().Add(waittest.Patience)); err != nil {
		return err
	}
	ping, pong := []byte("\x04\x07\x04PING\x00\x00"), []byte("\x04\x05\x04PONG")
	for range n {
		got := make([]byte, len(ping))
		if _, err := io.ReadFull(conn, got); err != nil {
			return fmt.Errorf("read a heartbeat: %w", err)
		}
		if !bytes.Equal(got, ping) {
			return fmt.Errorf("got %q, want the heartbeat %q", got, ping)
		}
		if _, err := conn.Write(pong); err != nil {
			return err
		}
	}
	return nil
}
