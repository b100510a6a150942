//go:build cgo && !nozmq

package zmq_test

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/eventplane/driver"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestReadyAssumesAPlainPublisher connects to a PUB of another library, which does not
// answer a subscription.
func TestReadyAssumesAPlainPublisher(t *testing.T) {
	t.Parallel()
	s, endpoint := peerPublisher(t)
	sub := subscribe(t, open(t, zmqdriver.Options{}), "kv-events")
	start := time.Now()
	connect(t, sub, endpoint)
	awaitReady(t, sub)
	if d := time.Since(start); d < 100*time.Millisecond {
		t.Errorf("ready after %v, want 100ms at least", d)
	}
	await(t, s, sub, "event")
	patient := subscribe(t, open(t, zmqdriver.WithoutAssuming(zmqdriver.Options{})), "kv-events")
	connect(t, patient, endpoint)
	await(t, s, patient, "event")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := patient.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without assuming: %v, want a deadline exceeded", err)
	}
}

// TestReadyAssumesABrokerWithoutProbe has a subscriber that cannot reach the side of
// the broker that publishers use.
func TestReadyAssumesABrokerWithoutProbe(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	sub := subscribe(t, open(t, zmqdriver.Options{}), "kv-events")
	if err := sub.ConnectProbe("tcp://127.0.0.1:1"); err != nil { // no peer listens there
		t.Fatal(err)
	}
	connect(t, sub, b.XPubEndpoint())
	awaitReady(t, sub)
	if err := sub.DisconnectProbe("tcp://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
}

// peerSubscriber returns a SUB of zmq4.
func peerSubscriber(t *testing.T, endpoint, topic string) *zmq.Socket {
	t.Helper()
	s := peer(t, zmq.SUB)
	if err := errors.Join(s.SetSubscribe(topic), s.Connect(endpoint)); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestPlainSubscribersCanSkipControlMessages has subscribers of another library: one
// to the topic receives only events, and one to all topics only well-formed messages.
func TestPlainSubscribersCanSkipControlMessages(t *testing.T) {
	t.Parallel()
	zc := open(t, zmqdriver.Options{ControlBody: func(dst []byte, _, _, _ uint64) []byte { return append(dst, "control"...) }})
	pub := directPublisher(t, zc)
	exact, all := peerSubscriber(t, pub.Endpoint(), "kv-events"), peerSubscriber(t, pub.Endpoint(), "")
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	if err := pub.WaitSubscribers(ctx, 2); err != nil {
		t.Fatal(err)
	}
	sub := subscribe(t, zc, "kv-events")
	connect(t, sub, pub.Endpoint())
	nextKind(t, sub, driver.Ready)
	publish(t, pub, driver.Message{Kind: driver.Tick, PublisherID: 1, Sequence: 3})
	publish(t, pub, driver.Message{PublisherID: 1, Sequence: 3, Body: []byte("event")})
	for _, c := range []struct {
		socket *zmq.Socket
		want   []string // bodies
	}{{exact, []string{"event"}}, {all, []string{"control", "control", "event"}}} {
		for _, want := range c.want {
			frames, err := c.socket.RecvMessageBytes(0)
			if err != nil {
				t.Fatal(err)
			}
			if len(frames) != 4 || len(frames[1]) != 8 || len(frames[2]) != 8 || frames[3][0] != 1 ||
				int(binary.BigEndian.Uint32(frames[3][1:])) != len(want) || string(frames[3][5:]) != want {
				t.Errorf("got %q, want four frames with the body %q", frames, want)
			}
		}
	}
}
