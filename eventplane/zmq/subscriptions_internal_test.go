//go:build cgo && !nozmq

package zmq

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/rawzmq"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/internal/zmtptest"
)

// kernelBuffer limits what the kernel holds of a connection, on either side. It
// doubles the value.
const kernelBuffer = 4 << 10

// connectedToBroker returns a publisher that is connected to a broker, and the
// broker's end of the connection after the handshake, which the test reads no
// more.
func connectedToBroker(t *testing.T) (*Publisher, net.Conn) {
	t.Helper()
	zc, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := zc.BrokerPublisher("kv-events")
	if err != nil {
		t.Fatal(err)
	}
	pub.loop.mu.Lock()
	err = pub.loop.socket.Set(rawzmq.ReceiveBuffer, kernelBuffer)
	pub.loop.mu.Unlock()
	if err := errors.Join(err, pub.Connect("tcp://"+listener.Addr().String())); err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	// The publisher closes its end first. A connection that is reset makes
	// libzmq abort the process at times: libzmq issue 4364.
	t.Cleanup(func() {
		if err := errors.Join(zc.Close(), conn.Close(), listener.Close()); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(conn.(*net.TCPConn).SetWriteBuffer(kernelBuffer), zmtptest.Handshake(conn, "XSUB")); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, conn) }() // until conn is closed
	return pub, conn
}

// subscription subscribes to everything.
var subscription = []byte{0, 1, 1}

// TestUnreadSubscriptionsAreBounded floods a publisher that publishes, and never
// waits to be ready, with subscriptions: those that it has not read must not fill
// its memory.
func TestUnreadSubscriptionsAreBounded(t *testing.T) {
	t.Parallel()
	pub, conn := connectedToBroker(t)
	// The kernel and libzmq's buffers hold about 7,000 subscriptions, libzmq's
	// list some thousands more: while one of its threads moves subscriptions
	// there, another delivers further ones. If reading did not keep up, the list
	// would grow with total.
	const total, limit, batch = 600_000, 300_000, 100
	var sent atomic.Int64
	written := make(chan error, 1)
	go func() {
		var err error
		for err == nil && sent.Load() < total {
			sent.Add(batch)
			_, err = conn.Write(bytes.Repeat(subscription, batch))
		}
		written <- err
	}()
	var most int64
	waittest.Eventually(t, "all subscriptions are read", func() bool {
		for range 1000 {
			if err := pub.Publish(t.Context(), &driver.Message{Subject: "x"}); err != nil {
				t.Fatal(err)
			}
			before := sent.Load() // first: else a pause here would count as unread
			most = max(most, before-subscriptionsRead(pub))
		}
		return subscriptionsRead(pub) == total
	})
	if err := <-written; err != nil {
		t.Error(err)
	}
	if most > limit {
		t.Errorf("%d of %d subscriptions were unread at a time, want at most %d", most, total, limit)
	}
}

// subscriptionsRead returns how many subscriptions pub has read that match.
func subscriptionsRead(pub *Publisher) int64 {
	pub.loop.mu.Lock()
	defer pub.loop.mu.Unlock()
	return int64(pub.subscriptions.matching)
}

// TestIdlePublisherReadsSubscriptions sends more subscriptions than libzmq and
// the kernel hold to a publisher that neither publishes nor waits to be ready.
func TestIdlePublisherReadsSubscriptions(t *testing.T) {
	t.Parallel()
	pub, conn := connectedToBroker(t)
	const total = 50_000
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(bytes.Repeat(subscription, total))
		written <- err
	}()
	waittest.Eventually(t, "all subscriptions are read", func() bool { return subscriptionsRead(pub) == total })
	if err := <-written; err != nil {
		t.Error(err)
	}
}
