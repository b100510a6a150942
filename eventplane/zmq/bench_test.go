//go:build cgo && !nozmq

package zmq_test

import (
	"context"
	"fmt"
	"testing"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/eventplane/drivertest"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
)

// window is the number of events in transit, few enough that none is dropped.
const window = 1_000

func BenchmarkPublish(b *testing.B) {
	zc := open(b, zmqdriver.Options{})
	for name, pub := range map[string]*zmqdriver.Publisher{"direct": directPublisher(b, zc), "broker": brokerPublisher(b, zc, "kv-events")} {
		b.Run(name, func(b *testing.B) {
			m := driver.Message{Subject: "kv-events", Body: make([]byte, 256)}
			b.ReportAllocs()
			for b.Loop() {
				if err := pub.Publish(context.Background(), &m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEvents measures the driver from end to end, BenchmarkRaw sockets of
// zmq4 for comparison.
func BenchmarkEvents(b *testing.B) {
	for _, size := range []int{256, 4096} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			zc := open(b, zmqdriver.Options{})
			pub, sub := directPublisher(b, zc), subscribe(b, zc, "kv-events")
			connect(b, sub, pub.Endpoint())
			m := driver.Message{Subject: "kv-events", Body: make([]byte, size)}
			measure(b, size,
				func() error { return pub.Publish(context.Background(), &m) },
				func(ctx context.Context) error { var m driver.Message; return sub.Next(ctx, &m) })
		})
	}
}

func BenchmarkRaw(b *testing.B) {
	for _, size := range []int{256, 4096} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			pub, endpoint := peerPublisher(b)
			sub := peer(b, zmq.SUB)
			if err := sub.SetSubscribe("kv-events"); err != nil {
				b.Fatal(err)
			}
			if err := sub.Connect(endpoint); err != nil {
				b.Fatal(err)
			}
			frames := [][]byte{[]byte("kv-events"), make([]byte, 8), make([]byte, 8), make([]byte, size+5)}
			measure(b, size,
				func() error { return sendRaw(pub, frames) },
				func(context.Context) error { return receiveRaw(sub, len(frames)) })
		})
	}
}

func sendRaw(s *zmq.Socket, frames [][]byte) error {
	for i, frame := range frames {
		flags := zmq.SNDMORE
		if i == len(frames)-1 {
			flags = 0
		}
		if _, err := s.SendBytes(frame, flags); err != nil {
			return err
		}
	}
	return nil
}

func receiveRaw(s *zmq.Socket, frames int) error {
	for range frames {
		if _, err := s.RecvBytes(0); err != nil {
			return err
		}
	}
	return nil
}

func measure(b *testing.B, size int, publish func() error, receive func(context.Context) error) {
	b.Helper()
	ready := make(chan error, 1)
	go func() { ready <- receive(context.Background()) }()
	for received := false; !received; {
		if err := publish(); err != nil {
			b.Fatal(err)
		}
		select {
		case err := <-ready:
			if err != nil {
				b.Fatal(err)
			}
			received = true
		default:
		}
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	sent := 0
	drain := func() {
		for ; sent > 0; sent-- {
			if err := receive(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		if err := publish(); err != nil {
			b.Fatal(err)
		}
		if sent++; sent == window {
			drain()
		}
	}
	drain()
}

// BenchmarkReplay requests the events of a history, two slices at a time.
func BenchmarkReplay(b *testing.B) {
	zc := open(b, zmqdriver.Options{})
	r := drivertest.Serve(b, directPublisher(b, zc), drivertest.NewHistory(0, b.N, 256))
	drivertest.BenchmarkReplay(b, subscribe(b, zc, "kv-events"), r)
}
