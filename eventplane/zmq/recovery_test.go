//go:build cgo && !nozmq

package zmq_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/eventplane/driver"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestOversizedFrame covers that libzmq does not reconnect to a peer that it
// disconnected for an oversized frame, also if the endpoint has a name, which
// libzmq resolves.
func TestOversizedFrame(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "localhost"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			s, endpoint := peerPublisher(t)
			sub := subscribe(t, open(t, zmqdriver.Options{MaxMessage: 1000}), "kv-events")
			connect(t, sub, strings.Replace(endpoint, "127.0.0.1", host, 1))
			await(t, s, sub, "before")
			for _, body := range []string{"first", "second"} {
				send(t, s, "kv-events", "12345678", "12345678", strings.Repeat("x", 2000))
				await(t, s, sub, body)
			}
			awaitReady(t, sub)
		})
	}
}

func TestReconnectToRestartedPublisher(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "localhost"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			s, endpoint := peerPublisher(t)
			sub := subscribe(t, open(t, zmqdriver.Options{MaxMessage: 1000}), "kv-events")
			connect(t, sub, strings.Replace(endpoint, "127.0.0.1", host, 1))
			await(t, s, sub, "before")
			if err := s.Unbind(endpoint); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = peer(t, zmq.PUB)
			rebind(t, s, endpoint)
			await(t, s, sub, "after")
			send(t, s, "kv-events", "12345678", "12345678", strings.Repeat("x", 2000))
			await(t, s, sub, "after an oversized frame too")
		})
	}
}

// rebind binds to an endpoint that libzmq is about to release.
func rebind(t *testing.T, s *zmq.Socket, endpoint string) {
	t.Helper()
	waittest.Eventually(t, endpoint+" is free", func() bool { return s.Bind(endpoint) == nil })
}

// TestJunkPeers connects to listeners that do not speak ZMTP, and are replaced by
// a publisher later.
func TestJunkPeers(t *testing.T) {
	t.Parallel()
	for name, junk := range map[string]string{
		"an HTTP server":         "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" + strings.Repeat(" ", 100),
		"a greeting without end": "\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL" + strings.Repeat("\x00", 48) + "\x04\xff\xff\xff\xff",
		"noise":                  strings.Repeat("\xff", 4096),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			endpoint := "tcp://" + l.Addr().String()
			sub := subscribe(t, open(t, zmqdriver.Options{}), "kv-events")
			connect(t, sub, endpoint)
			for range 3 {
				c, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(c, junk)
				_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // some of it looks like ZMTP 1.0, for which libzmq waits
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			s := peer(t, zmq.PUB)
			rebind(t, s, endpoint)
			await(t, s, sub, "at last")
		})
	}
}

// TestConcurrentUse calls all methods at once, for the race detector. It must
// end.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	zc := open(t, zmqdriver.Options{IOThreads: 2})
	sub := subscribe(t, zc, "kv-events")
	brokered := brokerPublisher(t, zc, "kv-events")
	pubs := []*zmqdriver.Publisher{directPublisher(t, zc), directPublisher(t, zc), directPublisher(t, zc)}
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	var work sync.WaitGroup
	for _, pub := range pubs {
		for range 2 {
			work.Go(func() {
				for pub.Publish(ctx, &driver.Message{Subject: "kv-events", Body: make([]byte, 100)}) == nil {
				}
			})
		}
		work.Go(func() {
			for sub.Connect(pub.Endpoint()) == nil && brokered.Connect(pub.Endpoint()) == nil &&
				sub.Disconnect(pub.Endpoint()) == nil && brokered.Disconnect(pub.Endpoint()) == nil {
			}
		})
	}
	work.Go(func() {
		for brokered.Publish(ctx, &driver.Message{Subject: "kv-events"}) == nil {
		}
	})
	work.Go(func() {
		short, stop := context.WithTimeout(ctx, time.Millisecond)
		defer stop()
		for !errors.Is(sub.Ready(short), driver.ErrClosed) && ctx.Err() == nil {
		}
	})
	var m driver.Message
	for range 1000 {
		if err := sub.Next(ctx, &m); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		work.Go(func() {
			if err := zc.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	if ctx.Err() != nil {
		t.Error("it did not end in time")
	}
}
