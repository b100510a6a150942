//go:build cgo && !nozmq

package broker_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/broker"
)

// sizes are those of a small message and of one that the broker counts, in bytes.
var sizes = []int{256, 4096}

// BenchmarkRelay measures one publisher and one subscriber with the broker
// between them, BenchmarkProxy with libzmq's own proxy for comparison.
func BenchmarkRelay(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			relay, _ := start(b, broker.Options{})
			measure(b, publisher(b, relay), subscriber(b, relay), size)
		})
	}
}

func BenchmarkProxy(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) { benchmarkProxy(b, size) })
	}
}

func benchmarkProxy(b *testing.B, size int) {
	b.Helper()
	zctx, err := zmq.NewContext()
	if err != nil {
		b.Fatal(err)
	}
	var sides, ends []*zmq.Socket
	for _, kind := range []zmq.Type{zmq.XSUB, zmq.XPUB} {
		s, err := zctx.NewSocket(kind)
		if err != nil {
			b.Fatal(err)
		}
		err = errors.Join(s.SetLinger(200*time.Millisecond), s.SetSndhwm(100_000), s.SetRcvhwm(100_000), s.Bind("tcp://127.0.0.1:*"))
		if err != nil {
			b.Fatal(err)
		}
		endpoint, err := s.GetLastEndpoint()
		if err != nil {
			b.Fatal(err)
		}
		sides = append(sides, s)
		ends = append(ends, peer(b, map[zmq.Type]zmq.Type{zmq.XSUB: zmq.PUB, zmq.XPUB: zmq.SUB}[kind], endpoint))
	}
	control, err1 := zctx.NewSocket(zmq.PAIR)
	stop, err2 := zctx.NewSocket(zmq.PAIR)
	if err := errors.Join(err1, err2, control.Bind("inproc://control"), stop.Connect("inproc://control")); err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- zmq.ProxySteerable(sides[0], sides[1], nil, control) }()
	b.Cleanup(func() {
		_, err := stop.Send("TERMINATE", 0)
		err = errors.Join(err, <-ended)
		for _, s := range append(sides, control, stop) {
			err = errors.Join(err, s.Close())
		}
		if err := errors.Join(err, zctx.Term()); err != nil {
			b.Error(err)
		}
	})
	measure(b, ends[0], ends[1], size)
}

// measure sends in windows, so that no message is dropped.
func measure(b *testing.B, pub, sub *zmq.Socket, size int) {
	b.Helper()
	const window = 10_000
	await(b, pub, sub, "ready")
	parts := [][]byte{[]byte("kv-events"), make([]byte, 8), make([]byte, 8), make([]byte, size-25)}
	b.SetBytes(int64(size))
	sent := 0
	receive := func() {
		for ; sent > 0; sent-- {
			for range parts {
				if _, err := sub.RecvBytes(0); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	for b.Loop() {
		for i, part := range parts {
			flags := zmq.SNDMORE
			if i == len(parts)-1 {
				flags = 0
			}
			if _, err := pub.SendBytes(part, flags); err != nil {
				b.Fatal(err)
			}
		}
		if sent++; sent == window {
			receive()
		}
	}
	receive()
}
