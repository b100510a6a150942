//go:build cgo && !nozmq

package zmq_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/dynplane/dynplane/eventplane/driver"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/zmtptest"
)

// TestSubscriberCannotAbortAnIdlePublisher sends more subscriptions than libzmq
// queues to a publisher that does not publish, and resets the connection.
// libzmq aborts the process at its next heartbeat if it has stopped reading from
// such a connection (libzmq issue 4364).
func TestSubscriberCannotAbortAnIdlePublisher(t *testing.T) {
	t.Parallel()
	pub := directPublisher(t, open(t, zmqdriver.Options{}))
	hostile := zmtptest.Dial(t, pub.Endpoint(), "SUB")
	if _, err := hostile.Write(bytes.Repeat([]byte{0, 1, 1}, 100_000)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(hostile.SetLinger(0), hostile.Close()); err != nil {
		t.Fatal(err)
	}
	// A thread of libzmq serves all connections: when this one has had two
	// heartbeats, one of the other was due.
	if err := zmtptest.AnswerHeartbeats(zmtptest.Dial(t, pub.Endpoint(), "SUB"), 2); err != nil {
		t.Fatal(err)
	}
	if err := pub.Publish(t.Context(), &driver.Message{Subject: "kv-events"}); err != nil {
		t.Error(err)
	}
}
