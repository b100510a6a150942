//go:build cgo && !nozmq

package zmq

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// A broker that subscribes on and on must not fill the memory of a publisher
// that publishes and never waits.
func TestUnreadSubscriptionsAreBounded(t *testing.T) {
	t.Parallel()
	zc, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = zc.Close() }()
	pub, err := zc.BrokerPublisher("kv-events")
	if err != nil {
		t.Fatal(err)
	}
	endpoint, stop := flood(t)
	defer stop()
	if err := pub.Connect(endpoint); err != nil {
		t.Fatal(err)
	}
	const enough = 500_000
	read := func() int { pub.mu.Lock(); defer pub.mu.Unlock(); return pub.subscriptions.matched }
	for end := time.Now().Add(time.Minute); read() < enough; {
		if err := pub.Publish(t.Context(), &driver.Message{Subject: "x"}); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatalf("%d subscriptions were read", read())
		}
	}
	stop()
	before := read()
	pub.mu.Lock()
	for !pub.subscriptions.read() {
	}
	pub.mu.Unlock()
	if unread := read() - before; unread > enough/5 {
		t.Errorf("%d subscriptions were unread after %d", unread, before)
	}
}

// flood subscribes its peers to everything as often as it can, until stop.
func flood(t *testing.T) (endpoint string, stop func()) {
	t.Helper()
	zctx, err := zmq.NewContext()
	if err != nil {
		t.Fatal(err)
	}
	xsub, err := zctx.NewSocket(zmq.XSUB)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(xsub.SetLinger(0), xsub.Bind("tcp://127.0.0.1:*")); err != nil {
		t.Fatal(err)
	}
	if endpoint, err = xsub.GetLastEndpoint(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			_, _ = xsub.SendBytes([]byte{1}, zmq.DONTWAIT)
		}
		ended <- errors.Join(xsub.Close(), zctx.Term())
	}()
	return endpoint, sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
