//go:build cgo && !nozmq

package zmq_test

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/eventplane/drivertest"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/internal/zmtptest"
)

const mebibyte = 1 << 20

// readAlways reads what a publisher sends and sends heartbeats. It connects again
// when the connection ends, until ctx is done. It counts the bytes and the
// connections.
func readAlways(ctx context.Context, t *testing.T, endpoint string, received, connections *atomic.Int64) {
	t.Helper()
	for ctx.Err() == nil {
		c, err := net.Dial("tcp", endpoint[len("tcp://"):])
		if err != nil {
			continue // not bound for a moment
		}
		if err := zmtptest.Handshake(c, "SUB"); err == nil {
			connections.Add(1)
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			_, err = c.Write([]byte{0, 1, 1})
			for buf := make([]byte, mebibyte); err == nil; {
				var n int
				n, err = c.Read(buf)
				received.Add(int64(n))
				if received.Load()%8 == 0 {
					_, _ = io.WriteString(c, "\x04\x05\x04PONG")
				}
			}
			stop()
		}
		_ = c.Close()
	}
}

// TestPeersThatDoNotReadAreBounded publishes large events for a subscriber that does not
// read, and comes back each time that it is disconnected, and for one that reads.
func TestPeersThatDoNotReadAreBounded(t *testing.T) {
	t.Parallel()
	zmtptest.InChild(t, func() {
		const events, limit = 3000, 512 * mebibyte
		zc := open(t, zmqdriver.Options{})
		pub := directPublisher(t, zc)
		endpoint := pub.Endpoint()
		ctx, cancel := context.WithCancel(t.Context())
		var peers sync.WaitGroup
		defer peers.Wait()
		defer cancel()
		var received, connections, stalled atomic.Int64
		peers.Go(func() { readAlways(ctx, t, endpoint, &received, &connections) })
		peers.Go(func() {
			for ctx.Err() == nil {
				c, err := net.Dial("tcp", endpoint[len("tcp://"):])
				if err != nil {
					continue
				}
				if zmtptest.Handshake(c, "SUB") == nil {
					stalled.Add(1)
					_, err = c.Write([]byte{0, 1, 1})
				}
				tick := time.NewTicker(time.Millisecond)
				for ; err == nil && ctx.Err() == nil; <-tick.C { // the end of the connection makes it fail
					_, err = io.WriteString(c, "\x04\x05\x04PONG")
				}
				tick.Stop()
				_ = c.Close()
			}
		})
		await, stop := context.WithTimeout(ctx, waittest.Patience)
		defer stop()
		if err := pub.WaitSubscribers(await, 2); err != nil {
			t.Fatal(err)
		}
		before, most := resident(t), 0
		m := driver.Message{Subject: "kv-events", Body: make([]byte, mebibyte)}
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := range int64(events) {
			if err := pub.Publish(ctx, &m); err != nil {
				t.Fatal(err)
			}
			<-tick.C
			if i%10 == 0 {
				most = max(most, resident(t)-before)
				waittest.Eventually(t, "the subscriber that reads follows", func() bool {
					return received.Load() >= (i-20-int64(pub.Dropped()))*mebibyte
				})
			}
		}
		t.Logf("%d MiB at most, %d dropped, %d MiB received, %d connections, %d of the stalled peer",
			most>>20, pub.Dropped(), received.Load()>>20, connections.Load(), stalled.Load())
		if most > limit {
			t.Errorf("subscribers cost %d MiB, want at most %d", most>>20, limit>>20)
		}
		if stalled.Load() < 2 {
			t.Error("the subscriber that does not read was not disconnected")
		}
		waittest.Eventually(t, "the other one has received all that was not dropped", func() bool {
			return received.Load() >= (events-int64(pub.Dropped()))*mebibyte
		})
		if connections.Load() != 1 {
			t.Error("the subscriber that reads was disconnected")
		}
		if pub.Endpoint() != endpoint {
			t.Errorf("endpoint %q: want %q as before", pub.Endpoint(), endpoint)
		}
		at := received.Load()
		m.Body = m.Body[:100]
		waittest.Eventually(t, "small events are received", func() bool {
			if err := pub.Publish(ctx, &m); err != nil {
				t.Fatal(err)
			}
			return received.Load() > at
		})
	})
}

// TestBrokerThatDoesNotRead has one of two brokers stop reading, but not the other.
func TestBrokerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	zc := open(t, zmqdriver.Options{MaxQueued: 32 * mebibyte})
	pub, sub := brokerPublisher(t, zc, "kv-events"), subscribe(t, zc, "kv-events")
	alive, _ := runBroker(t, broker.Options{})
	connect(t, pub, alive.XSubEndpoint())
	connect(t, sub, alive.XPubEndpoint())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var accepted atomic.Int64
	var stalled sync.WaitGroup
	stalled.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			if zmtptest.Handshake(c, "XSUB") == nil {
				_, _ = c.Write([]byte{0, 1, 1})
			}
			accepted.Add(1)
		}
	})
	defer stalled.Wait()
	defer l.Close()
	connect(t, pub, "tcp://"+l.Addr().String())
	awaitReady(t, pub)
	awaitReady(t, sub)
	m := driver.Message{Subject: "kv-events", Body: make([]byte, mebibyte)}
	waittest.Eventually(t, "the broker is disconnected", func() bool {
		for range 5 {
			if err := pub.Publish(t.Context(), &m); err != nil {
				t.Fatal(err)
			}
		}
		return accepted.Load() > 1
	})
	m.Sequence = 1
	waittest.Eventually(t, "the other broker relays large events", func() bool {
		if err := pub.Publish(t.Context(), &m); err != nil {
			t.Fatal(err)
		}
		got, err := next(t, sub, 20*time.Millisecond)
		for err == nil && got.Sequence != 1 {
			got, err = next(t, sub, 20*time.Millisecond)
		}
		return err == nil
	})
}

// TestDeadBrokerDoesNotCollectEvents has one of two brokers end. libzmq keeps
// the subscriptions of the one that has ended, and queues what is published for it.
func TestDeadBrokerDoesNotCollectEvents(t *testing.T) {
	t.Parallel()
	zmtptest.InChild(t, func() {
		const events, limit = 1000, 512 * mebibyte
		zc := open(t, zmqdriver.Options{})
		pub, sub := brokerPublisher(t, zc, "kv-events"), subscribe(t, zc, "kv-events")
		alive, _ := runBroker(t, broker.Options{})
		dead, stop := runBroker(t, broker.Options{})
		for _, b := range []*broker.Broker{alive, dead} {
			connect(t, pub, b.XSubEndpoint())
			connect(t, sub, b.XPubEndpoint())
		}
		awaitReady(t, pub)
		awaitReady(t, sub)
		stop()
		ctx, cancel := context.WithCancel(t.Context())
		var received atomic.Int64
		var reader sync.WaitGroup
		defer reader.Wait()
		defer cancel()
		reader.Go(func() {
			var m driver.Message
			for sub.Next(ctx, &m) == nil {
				received.Add(1)
			}
		})
		before, most := resident(t), 0
		m := driver.Message{Subject: "kv-events", Body: make([]byte, mebibyte)}
		for i := range int64(events) {
			if err := pub.Publish(ctx, &m); err != nil {
				t.Fatal(err)
			}
			most = max(most, resident(t)-before)
			if i > 20 { // as fast as they are received
				waittest.Eventually(t, "events are received", func() bool { return received.Load() >= i-20 })
			}
		}
		t.Logf("%d MiB at most, %d dropped", most>>20, pub.Dropped())
		if most > limit || pub.Dropped() > 0 {
			t.Errorf("cost %d MiB, %d events dropped: want at most %d MiB, and none", most>>20, pub.Dropped(), limit>>20)
		}
	})
}

// mixedHistory has small events and, from the sequence large on, large ones.
type mixedHistory struct {
	small, large driver.History
	from         uint64
}

// Slice implements driver.History.
func (h mixedHistory) Slice(dst []driver.Message, first, last uint64, limit, maxBytes int) []driver.Message {
	if first < h.from {
		return h.small.Slice(dst, first, last, limit, maxBytes)
	}
	return h.large.Slice(dst, first, last, limit, maxBytes)
}

// TestReplayOfSmallAndLargeEvents has a client that has read many small events, which
// libzmq has not acknowledged yet, when large ones follow.
func TestReplayOfSmallAndLargeEvents(t *testing.T) {
	t.Parallel()
	pub := directPublisher(t, open(t, zmqdriver.Options{}))
	h := mixedHistory{drivertest.NewHistory(0, 500, 8), drivertest.NewHistory(500, 20, mebibyte), 500}
	r := drivertest.Serve(t, pub, h)
	s := dealer(t, r.Address)
	for _, request := range []struct{ first, last uint64 }{{0, 499}, {500, 519}, {0, 499}, {0, 499}, {500, 519}} {
		send(t, s, "", u64(request.first), u64(request.last))
		for n := request.first; n <= request.last+1; n++ { // and the end
			if _, err := s.RecvMessage(0); err != nil {
				t.Fatalf("event %d of request %v: %v", n, request, err)
			}
		}
	}
}
