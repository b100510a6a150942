//go:build cgo && !nozmq

package zmq_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

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

// httpServer answers each connection as a server of HTTP that closes it. It sends
// to served afterwards.
func httpServer(t *testing.T, served chan<- struct{}) (endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadFull(c, make([]byte, 10)) // unread bytes would reset the connection
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n400 Bad Request")
			_ = c.Close()
			select {
			case served <- struct{}{}:
			case <-t.Context().Done():
			}
		}
	}()
	return "tcp://" + l.Addr().String()
}

// TestHTTPServerCannotAbortAPublisher has a publisher connect to a server of HTTP,
// and disconnect. libzmq takes the answer for the greeting of a peer of ZMTP 1.0
// and then adds a subscription in its name. An assertion fails if that is not
// possible, because the publisher disconnects or has not read earlier ones.
func TestHTTPServerCannotAbortAPublisher(t *testing.T) {
	t.Parallel()
	zmtptest.InChild(t, func() {
		served := make(chan struct{})
		endpoint := httpServer(t, served)
		pub := brokerPublisher(t, open(t, zmqdriver.Options{}), "kv-events")
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for range 1000 {
			connect(t, pub, endpoint)
			<-tick.C
			select {
			case <-served:
			default:
			}
			if err := pub.Disconnect(endpoint); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestBrokersCannotAbortAPublisher has many brokers that flood a publisher with
// subscriptions, and reset the connections about a second after the handshake. If
// the publisher sent a heartbeat then, libzmq would abort the process, since it has
// stopped reading from a connection that has ended (libzmq issue 4364).
func TestBrokersCannotAbortAPublisher(t *testing.T) {
	t.Parallel()
	zmtptest.InChild(t, func() {
		pub := brokerPublisher(t, open(t, zmqdriver.Options{}), "kv-events")
		var brokers sync.WaitGroup
		for i := range 50 {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			connect(t, pub, "tcp://"+l.Addr().String())
			brokers.Go(func() { floodOnce(t, l, time.Second+time.Duration(i-25)*2*time.Millisecond) })
		}
		brokers.Wait()
		if err := pub.Publish(t.Context(), &driver.Message{Subject: "kv-events"}); err != nil {
			t.Error(err)
		}
	})
}

// floodOnce accepts one connection, subscribes and unsubscribes on it for a time,
// and resets it.
func floodOnce(t *testing.T, l net.Listener, d time.Duration) {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Error(err)
		return
	}
	if err := errors.Join(l.Close(), zmtptest.Handshake(c, "XSUB")); err != nil {
		t.Error(err)
	}
	frames := bytes.Repeat([]byte{0, 2, 1, 'x', 0, 2, 0, 'x'}, 1000)
	_ = c.SetWriteDeadline(time.Now().Add(d))
	for err == nil {
		_, err = c.Write(frames)
	}
	if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close()); err != nil {
		t.Error(err)
	}
}
