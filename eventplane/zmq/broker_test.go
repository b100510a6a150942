//go:build cgo && !nozmq

package zmq_test

import (
	"context"
	"errors"
	"testing"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/eventplane/drivertest"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
)

func TestConformanceThroughBroker(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		b := startBroker(t)
		zc := open(t, zmqdriver.Options{})
		return drivertest.Harness{
			NewPublisher: func(t *testing.T) driver.Publisher {
				pub, err := zc.Dial()
				if err != nil {
					t.Fatal(err)
				}
				connect(t, pub, b.XSubEndpoint())
				live(t, pub)
				return pub
			},
			NewSubscriber: func(t *testing.T, subject string) driver.Subscriber {
				sub := subscribe(t, zc, subject)
				connect(t, sub, b.XPubEndpoint())
				return sub
			},
		}
	})
}

func startBroker(t testing.TB) *broker.Broker {
	t.Helper()
	b, err := broker.New(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- b.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, broker.ErrClosed) {
			t.Error(err)
		}
	})
	return b
}
