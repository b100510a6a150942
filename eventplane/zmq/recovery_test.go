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

// libzmq never connects again to a peer that it cut off for an oversized
// frame, also where the endpoint is a name, which it resolves meanwhile.
func TestOversizedFrame(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "localhost"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			s, endpoint := foreignPublisher(t)
			sub := subscribe(t, open(t, zmqdriver.Options{MaxMessage: 1000}), "kv-events")
			connect(t, sub, strings.Replace(endpoint, "127.0.0.1", host, 1))
			await(t, s, sub, "before")
			for _, body := range []string{"first", "second"} {
				send(t, s, "kv-events", "12345678", "12345678", strings.Repeat("x", 2000))
				await(t, s, sub, body)
			}
			live(t, sub)
		})
	}
}

func TestPublisherComesBack(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "localhost"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			s, endpoint := foreignPublisher(t)
			sub := subscribe(t, open(t, zmqdriver.Options{MaxMessage: 1000}), "kv-events")
			connect(t, sub, strings.Replace(endpoint, "127.0.0.1", host, 1))
			await(t, s, sub, "before")
			if err := s.Unbind(endpoint); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = foreign(t, zmq.PUB)
			bindAgain(t, s, endpoint)
			await(t, s, sub, "after")
			send(t, s, "kv-events", "12345678", "12345678", strings.Repeat("x", 2000))
			await(t, s, sub, "after an oversized frame too")
		})
	}
}

// bindAgain binds to a port that libzmq is about to let go.
func bindAgain(t *testing.T, s *zmq.Socket, endpoint string) {
	t.Helper()
	waittest.Eventually(t, endpoint+" is free", func() bool { return s.Bind(endpoint) == nil })
}

// Something else listens where the peers are expected, and later the real ones.
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
				_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // to some it looks like ZMTP 1.0, which waits
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			s := foreign(t, zmq.PUB)
			bindAgain(t, s, endpoint)
			await(t, s, sub, "at last")
		})
	}
}

// Everything at once, for the race detector; what must hold is that it ends.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	zc := open(t, zmqdriver.Options{IOThreads: 2})
	sub := subscribe(t, zc, "kv-events")
	dialled := dial(t, zc, "kv-events")
	pubs := []*zmqdriver.Publisher{bind(t, zc), bind(t, zc), bind(t, zc)}
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
			for sub.Connect(pub.Endpoint()) == nil && dialled.Connect(pub.Endpoint()) == nil &&
				sub.Disconnect(pub.Endpoint()) == nil && dialled.Disconnect(pub.Endpoint()) == nil {
			}
		})
	}
	work.Go(func() {
		for dialled.Publish(ctx, &driver.Message{Subject: "kv-events"}) == nil {
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
		t.Error("it did not end")
	}
}
