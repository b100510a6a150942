//go:build cgo && !nozmq

package broker_test

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/internal/zmtptest"
)

// TestSubscribersCannotAbortTheBroker floods a broker with subscriptions, and resets
// the connections about a second after their handshake. If libzmq had stopped
// reading from one of them, it would abort the process when it sends a heartbeat,
// or answers one of the peer, on that connection (libzmq issue 4364).
func TestSubscribersCannotAbortTheBroker(t *testing.T) {
	t.Parallel()
	zmtptest.InChild(t, func() {
		b, _ := start(t, broker.Options{})
		pub, sub := publisher(t, b), subscriber(t, b)
		subscriptions := []byte{0, 2, 1, 'x', 0, 2, 0, 'x'}
		heartbeat := []byte("\x04\x07\x04PING\x00\x00")
		var floods sync.WaitGroup
		for i := range 50 {
			frames := subscriptions
			if i%2 == 0 {
				frames = slices.Concat(subscriptions, heartbeat)
			}
			c := zmtptest.Dial(t, b.XPubEndpoint(), "SUB")
			floods.Go(func() { flood(t, c, frames, time.Second+time.Duration(i-25)*2*time.Millisecond) })
		}
		floods.Wait()
		await(t, pub, sub, "after")
	})
}

// flood sends frames for a time, and resets the connection.
func flood(t *testing.T, c *net.TCPConn, frames []byte, d time.Duration) {
	t.Helper()
	frames = bytes.Repeat(frames, 1000)
	_ = c.SetWriteDeadline(time.Now().Add(d))
	for {
		if _, err := c.Write(frames); err != nil {
			break
		}
	}
	if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
		t.Error(err)
	}
}
