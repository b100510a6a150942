//go:build cgo && !nozmq

package zmq_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/waittest"
)

func TestConnectIsASet(t *testing.T) {
	t.Parallel()
	s, endpoint := peerPublisher(t)
	sub := subscribe(t, open(t, zmqdriver.Options{}), "kv-events")
	if err := sub.Disconnect(endpoint); err != nil {
		t.Error(err)
	}
	connect(t, sub, endpoint)
	connect(t, sub, endpoint)
	await(t, s, sub, "before")
	send(t, s, event("once")...)
	send(t, s, event("end")...)
	seen := 0
	for {
		m, err := next(t, sub, waittest.Patience)
		if err != nil {
			t.Fatal(err)
		}
		if string(m.Body) == "once" {
			seen++
		}
		if string(m.Body) == "end" {
			break
		}
	}
	if seen != 1 {
		t.Errorf("connected twice: received the event %d times, want 1", seen)
	}
	for range 2 {
		if err := sub.Disconnect(endpoint); err != nil {
			t.Error(err)
		}
	}
	// Events sent before the disconnection are received, and in the end no more.
	waittest.Eventually(t, "nothing more is received from a disconnected publisher", func() bool {
		send(t, s, event("gone")...)
		_, err := next(t, sub, 200*time.Millisecond)
		return err != nil
	})
	connect(t, sub, endpoint)
	await(t, s, sub, "again")
}

// TestLastEventsOfDisconnectedPublisher disconnects right after a burst was sent,
// most of which is still in transit.
func TestLastEventsOfDisconnectedPublisher(t *testing.T) {
	t.Parallel()
	s, endpoint := peerPublisher(t)
	sub := subscribe(t, open(t, zmqdriver.Options{}), "kv-events")
	connect(t, sub, endpoint)
	await(t, s, sub, "before")
	const burst = 5000
	for range burst {
		send(t, s, event("last")...)
	}
	if err := sub.Disconnect(endpoint); err != nil {
		t.Fatal(err)
	}
	for received := 0; received < burst; {
		m, err := next(t, sub, waittest.Patience)
		if err != nil {
			t.Fatalf("received %d of %d: %v", received, burst, err)
		}
		if string(m.Body) == "last" {
			received++
		}
	}
	// Connecting again at once does not interrupt the stream.
	connect(t, sub, endpoint)
	for range burst {
		send(t, s, event("back")...)
	}
	for received := 0; received < burst; {
		m, err := next(t, sub, waittest.Patience)
		if err != nil {
			t.Fatalf("received %d of %d after connecting again: %v", received, burst, err)
		}
		if string(m.Body) == "back" {
			received++
		}
	}
}

func TestBadEndpoints(t *testing.T) {
	t.Parallel()
	zc := open(t, zmqdriver.Options{})
	sub := subscribe(t, zc, "kv-events")
	for _, endpoint := range []string{"", "localhost:5555", "inproc://1", "pgm://x", "tcp://", "tcp://*:1", "tcp://a b:1", "ipc://" + strings.Repeat("x", 200)} {
		if err := sub.Connect(endpoint); err == nil || !strings.Contains(err.Error(), "zmq: connect to ") {
			t.Errorf("%q: got %v", endpoint, err)
		}
	}
	awaitReady(t, sub) // none of them is pending
	if _, err := zc.Subscribe(strings.Repeat("x", 4069)); err == nil {
		t.Error("a subject is accepted for which publishers would disconnect")
	}
	if _, err := zc.BrokerPublisher(strings.Repeat("x", 4069)); err == nil {
		t.Error("a subject is accepted to which no subscriber can subscribe")
	}
	if err := directPublisher(t, zc).Connect("tcp://127.0.0.1:1"); err == nil {
		t.Error("a bound publisher connects")
	}
	for _, host := range []string{"", "localhost", "1.2.3.4.5"} {
		if _, err := zc.DirectPublisher(host, "kv-events", 1); err == nil || !strings.Contains(err.Error(), "want an IP address") {
			t.Errorf("bind to %q: got %v", host, err)
		}
	}
}

func TestReadyAwaitsEveryPeer(t *testing.T) {
	t.Parallel()
	zc := open(t, zmqdriver.Options{})
	sub := subscribe(t, zc, "kv-events")
	awaitReady(t, sub)
	for _, host := range []string{"127.0.0.1", "::1", "[::1]"} {
		pub, err := zc.DirectPublisher(host, "kv-events", 1)
		if err != nil {
			t.Fatal(err)
		}
		connect(t, sub, pub.Endpoint())
	}
	awaitReady(t, sub)

	connect(t, sub, "tcp://127.0.0.1:1") // no peer listens there
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := sub.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a dead endpoint: %v, want a deadline exceeded", err)
	}
	if err := sub.Disconnect("tcp://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	awaitReady(t, sub)
}
