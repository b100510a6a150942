//go:build cgo && !nozmq

package zmq_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/eventplane/drivertest"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/internal/zmtptest"
)

func u64(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

const noSequence = "\xff\xff\xff\xff\xff\xff\xff\xff"

// dealer returns a DEALER of another library that is connected to address.
func dealer(t *testing.T, address string) *zmq.Socket {
	t.Helper()
	s := peer(t, zmq.DEALER)
	if err := s.Connect(address); err != nil {
		t.Fatal(err)
	}
	return s
}

// receiveFrames requires a message of these frames.
func receiveFrames(t *testing.T, s *zmq.Socket, want ...string) {
	t.Helper()
	got, err := s.RecvMessage(0)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Fatalf("received %q: want %q", got, want)
	}
}

func replayed(t *testing.T, sub *zmqdriver.Subscriber, r driver.ReplayRequest, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	n, err := drivertest.Replay(ctx, sub, r, func(*driver.Message) {})
	if err != nil || n != want {
		t.Errorf("replayed %d events, error %v: want %d", n, err, want)
	}
}

// TestReplayFrames has the frames of docs/protocol.md, in both forms.
func TestReplayFrames(t *testing.T) {
	t.Parallel()
	pub := directPublisher(t, open(t, zmqdriver.Options{}))
	r := drivertest.Serve(t, pub, drivertest.NewHistory(100, 2000, 8))
	s := dealer(t, r.Address)
	id := u64(r.PublisherID)

	send(t, s, "", u64(2098), u64(5000))
	for seq := uint64(2098); seq < 2100; seq++ {
		receiveFrames(t, s, "", id, u64(seq), "\x01\x00\x00\x00\x08"+u64(seq))
	}
	receiveFrames(t, s, "", id, noSequence, "\x01\x00\x00\x00\x18"+u64(2098)+u64(5000)+u64(2))

	send(t, s, "", u64(0)) // a tool for engines receives everything
	for seq := uint64(100); seq < 2100; seq++ {
		receiveFrames(t, s, "", u64(seq), u64(seq))
	}
	receiveFrames(t, s, "", noSequence, "")
}

// TestMalformedRequestsForReplay get no answer and one line in the log.
func TestMalformedRequestsForReplay(t *testing.T) {
	t.Parallel()
	var log logtest.Buffer
	pub := directPublisher(t, open(t, zmqdriver.Options{Logger: log.Logger()}))
	r := drivertest.Serve(t, pub, drivertest.NewHistory(0, 3, 8))
	s := dealer(t, r.Address)
	for _, frames := range [][]string{
		{""}, {"", ""}, {u64(0)}, {u64(0), u64(1)}, {"", "1"}, {"", u64(0), "1"}, {"", u64(2), u64(1)},
		{"", u64(0), u64(1), ""}, {"", u64(0), u64(1), "", "", "", "", ""}, {"x", u64(0), u64(1)},
		{"", strings.Repeat("x", 4000), u64(1)},
	} {
		send(t, s, frames...)
	}
	send(t, s, "", u64(3), u64(3))
	receiveFrames(t, s, "", u64(r.PublisherID), noSequence, "\x01\x00\x00\x00\x18"+u64(3)+u64(3)+u64(0))
	if n := log.Count("level=WARN"); n != 1 {
		t.Errorf("%d warnings: want 1:\n%s", n, log.String())
	}
}

// TestClientsOfReplayCannotStopIt has clients that flood the server with requests and
// read nothing, some of which are gone without an end of their connection.
func TestClientsOfReplayCannotStopIt(t *testing.T) {
	t.Parallel()
	zc := open(t, zmqdriver.Options{})
	pub, sub := directPublisher(t, zc), subscribe(t, zc, "kv-events")
	r := drivertest.Serve(t, pub, drivertest.NewHistory(0, 5000, 1000))
	request := []byte("\x01\x00\x01\x08" + u64(0) + "\x00\x08" + u64(math.MaxUint64))
	var floods sync.WaitGroup
	for i := range 20 {
		c := zmtptest.Dial(t, r.Address, "DEALER")
		floods.Go(func() {
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = c.Write(bytes.Repeat(request, 10_000))
			if i%2 == 0 {
				_ = errors.Join(c.SetLinger(0), c.Close())
			}
		})
	}
	for range 5 {
		replayed(t, sub, r, 5000)
	}
	floods.Wait()
	replayed(t, sub, r, 5000)
}

// TestReplayBehindBrokers covers publishers that have no host of their own.
func TestReplayBehindBrokers(t *testing.T) {
	t.Parallel()
	if _, err := brokerPublisher(t, open(t, zmqdriver.Options{}), "kv-events").ServeReplay(1, drivertest.NewHistory(0, 1, 8)); err == nil {
		t.Error("served without a host: want an error")
	}
	zc := open(t, zmqdriver.Options{ReplayHost: "127.0.0.1"})
	r := drivertest.Serve(t, brokerPublisher(t, zc, "kv-events"), drivertest.NewHistory(0, 1000, 8))
	replayed(t, subscribe(t, zc, "kv-events"), r, 1000)
}

// TestReplayOfManyPublishers has more publishers than a subscriber has connections.
func TestReplayOfManyPublishers(t *testing.T) {
	t.Parallel()
	zc := open(t, zmqdriver.Options{})
	sub := subscribe(t, zc, "kv-events")
	var calls sync.WaitGroup
	for range 20 {
		r := drivertest.Serve(t, directPublisher(t, zc), drivertest.NewHistory(0, 2000, 8))
		calls.Go(func() { replayed(t, sub, r, 2000) })
	}
	calls.Wait()
}

// TestReplayFromAnotherService covers addresses that were reused, or that nothing
// listens on.
func TestReplayFromAnotherService(t *testing.T) {
	t.Parallel()
	zc := open(t, zmqdriver.Options{})
	sub := subscribe(t, zc, "kv-events")
	request := func(address string) error {
		return sub.Replay(t.Context(), driver.ReplayRequest{PublisherID: 1, Address: address, Last: 100}, func(*driver.Message) {})
	}
	router := peer(t, zmq.ROUTER)
	if err := router.Bind("tcp://127.0.0.1:*"); err != nil {
		t.Fatal(err)
	}
	endpoint, err := router.GetLastEndpoint()
	if err != nil {
		t.Fatal(err)
	}
	for _, answer := range [][]string{
		{"", u64(0), "payload"},
		{"x", u64(1), u64(0), "\x01\x00\x00\x00\x00"},
		{"", u64(1), u64(200), "\x01\x00\x00\x00\x00"},
		{"", u64(1), noSequence, "\x01\x00\x00\x00\x00"},
		{"", u64(1), noSequence, "\x01\x00\x00\x00\x18" + u64(0) + u64(100) + u64(7)},
	} {
		var served sync.WaitGroup
		served.Go(func() {
			got, err := router.RecvMessage(0)
			if err != nil {
				t.Error(err)
				return
			}
			send(t, router, append(got[:1], answer...)...)
		})
		if err := request(endpoint); err == nil {
			t.Errorf("answer %q: want an error", answer)
		}
		served.Wait()
	}
	served := make(chan struct{}, 1000)
	_, subscribers := peerPublisher(t)
	for name, address := range map[string]string{"closed": "tcp://127.0.0.1:1", "HTTP": httpServer(t, served), "PUB": subscribers, "invalid": "x"} {
		if err := request(address); err == nil || errors.Is(err, driver.ErrNoReplay) {
			t.Errorf("%s: error %v: want one after which the request may be repeated", name, err)
		}
	}
	if err := request(""); !errors.Is(err, driver.ErrNoReplay) {
		t.Errorf("no address: error %v: want ErrNoReplay", err)
	}
}

// TestClientsOfReplayCannotAbortAPublisher has clients that announce heartbeats, flood
// the server until libzmq stops reading from them, and reset the connection (libzmq
// issue 4364).
func TestClientsOfReplayCannotAbortAPublisher(t *testing.T) {
	t.Parallel()
	zmtptest.InChild(t, func() {
		zc := open(t, zmqdriver.Options{})
		r := drivertest.Serve(t, directPublisher(t, zc), drivertest.NewHistory(0, 5000, 1000))
		flood := bytes.Repeat([]byte("\x01\x00\x01\x08"+u64(0)+"\x00\x08"+u64(math.MaxUint64)), 2000)
		var clients sync.WaitGroup
		for i := range 50 {
			c := zmtptest.Dial(t, r.Address, "DEALER")
			clients.Go(func() {
				_ = c.SetWriteDeadline(time.Now().Add(time.Duration(50+7*i) * time.Millisecond))
				_, err := c.Write([]byte("\x04\x07\x04PING\x00\x01")) // expires after 100 ms
				for err == nil {
					_, err = c.Write(flood)
				}
				_ = errors.Join(c.SetLinger(0), c.Close())
			})
		}
		clients.Wait()
		replayed(t, subscribe(t, zc, "kv-events"), r, 5000)
	})
}
