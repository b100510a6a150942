//go:build cgo && !nozmq

package zmq_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/eventplane/driver"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestReadyThroughBroker checks that no event is lost that a new publisher sends
// right after Ready.
func TestReadyThroughBroker(t *testing.T) {
	t.Parallel()
	one, two := startBroker(t), startBroker(t)
	for name, c := range map[string]struct{ xsub, xpub []string }{
		"one broker":  {[]string{one.XSubEndpoint()}, []string{one.XPubEndpoint()}},
		"two brokers": {[]string{one.XSubEndpoint(), two.XSubEndpoint()}, []string{one.XPubEndpoint(), two.XPubEndpoint()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			zc := open(t, zmqdriver.Options{})
			// One subscriber for each broker, so that each must have relayed the event.
			subs := make([]*zmq.Socket, len(c.xpub))
			for i, endpoint := range c.xpub {
				subs[i] = subscribed(t, endpoint, name, func(m *driver.Message) error {
					probe := brokerPublisher(t, zc, name)
					connect(t, probe, c.xsub[i])
					awaitReady(t, probe)
					return errors.Join(probe.Publish(t.Context(), m), probe.Close())
				})
			}
			for i := range 200 {
				publishWhenReady(t, zc, c.xsub, name, fmt.Sprint(i))
				for _, sub := range subs {
					expect(t, sub, fmt.Sprint(i))
				}
			}
		})
	}
}

// publishWhenReady publishes from a new publisher as soon as it is ready.
func publishWhenReady(t *testing.T, zc *zmqdriver.Context, xsubs []string, subject, body string) {
	t.Helper()
	pub := brokerPublisher(t, zc, subject)
	for _, endpoint := range xsubs {
		connect(t, pub, endpoint)
	}
	awaitReady(t, pub)
	if err := pub.Publish(t.Context(), &driver.Message{Subject: subject, Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
	if err := pub.Close(); err != nil {
		t.Error(err)
	}
}

// subscribed returns a SUB of zmq4 that has received a message of publish.
func subscribed(t *testing.T, xpub, subject string, publish func(*driver.Message) error) *zmq.Socket {
	t.Helper()
	sub := peer(t, zmq.SUB)
	if err := errors.Join(sub.SetSubscribe(subject), sub.Connect(xpub), sub.SetRcvtimeo(20*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	waittest.Eventually(t, "the subscriber receives a message", func() bool {
		if err := publish(&driver.Message{Subject: subject, Body: []byte("probe")}); err != nil {
			t.Fatal(err)
		}
		_, err := sub.RecvMessageBytes(0)
		return err == nil
	})
	if err := sub.SetRcvtimeo(waittest.Patience); err != nil {
		t.Fatal(err)
	}
	return sub
}

// expect fails unless the next event that is not a probe has that body.
func expect(t *testing.T, sub *zmq.Socket, body string) {
	t.Helper()
	for got := "probe"; got != body; {
		frames, err := sub.RecvMessageBytes(0)
		if err != nil {
			t.Fatalf("%q is lost: %v", body, err)
		}
		if got = string(frames[3][5:]); got != body && got != "probe" {
			t.Fatalf("%q is lost: %q came", body, got)
		}
	}
}

// TestReadyThroughForwardingBroker uses a broker that forwards the subscriptions
// of its subscribers, and so subscribes only while it has one.
func TestReadyThroughForwardingBroker(t *testing.T) {
	t.Parallel()
	xsub, xpub := forwardingBroker(t)
	zc := open(t, zmqdriver.Options{})
	other := peer(t, zmq.SUB)
	if err := errors.Join(other.SetSubscribe("other"), other.SetSubscribe("kv-events.longer"), other.Connect(xpub)); err != nil {
		t.Fatal(err)
	}
	pub := brokerPublisher(t, zc, "kv-events")
	connect(t, pub, xsub)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := pub.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a subscriber: %v, want a deadline exceeded", err)
	}
	sub := subscribed(t, xpub, "kv", func(m *driver.Message) error {
		m.Subject = "kv-events"
		return pub.Publish(t.Context(), m)
	})
	awaitReady(t, pub)
	for i := range 50 {
		publishWhenReady(t, zc, []string{xsub}, "kv-events", fmt.Sprint(i))
		expect(t, sub, fmt.Sprint(i))
	}
}

// forwardingBroker relays messages and subscriptions between an XSUB and an XPUB
// socket.
func forwardingBroker(t *testing.T) (xsub, xpub string) {
	t.Helper()
	zctx, err := zmq.NewContext()
	if err != nil {
		t.Fatal(err)
	}
	var sockets [2]*zmq.Socket
	var endpoints [2]string
	for i, kind := range []zmq.Type{zmq.XSUB, zmq.XPUB} {
		if sockets[i], err = zctx.NewSocket(kind); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(sockets[i].SetLinger(200*time.Millisecond), sockets[i].Bind("tcp://127.0.0.1:*")); err != nil {
			t.Fatal(err)
		}
		if endpoints[i], err = sockets[i].GetLastEndpoint(); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() {
		_ = zmq.Proxy(sockets[0], sockets[1], nil) // until zctx is terminated
		ended <- errors.Join(sockets[0].Close(), sockets[1].Close())
	}()
	t.Cleanup(func() {
		if err := errors.Join(zctx.Term(), <-ended); err != nil {
			t.Error(err)
		}
	})
	return endpoints[0], endpoints[1]
}

// TestReadyAfterReconnect restarts a broker, which subscribes again and must be
// counted again.
func TestReadyAfterReconnect(t *testing.T) {
	t.Parallel()
	pub := brokerPublisher(t, open(t, zmqdriver.Options{}), "kv-events")
	opts := broker.Options{XSubBind: "tcp://127.0.0.1:*", XPubBind: "tcp://127.0.0.1:*"}
	for range 5 {
		b, stop := runBroker(t, opts)
		opts.XSubBind = b.XSubEndpoint()
		connect(t, pub, b.XSubEndpoint())
		awaitReady(t, pub)
		sub := subscribed(t, b.XPubEndpoint(), "kv-events", func(m *driver.Message) error { return pub.Publish(t.Context(), m) })
		stop()
		// Until the publisher has detected the end, Ready refers to the last connection.
		ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
		for gone := false; !gone; {
			short, end := context.WithTimeout(ctx, 10*time.Millisecond)
			gone = pub.Ready(short) != nil
			end()
		}
		cancel()
		_ = sub.Close()
	}
}
