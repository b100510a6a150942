//go:build cgo && !nozmq

package zmq_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/eventplane/drivertest"
	"github.com/dynplane/dynplane/internal/waittest"
)

func TestConformanceThroughBroker(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		b := startBroker(t)
		zc := open(t, conformanceOptions)
		return drivertest.Harness{
			NewPublisher: func(t *testing.T) driver.Publisher {
				pub := brokerPublisher(t, zc, "")
				connect(t, pub, b.XSubEndpoint())
				awaitReady(t, pub)
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
	b, _ := runBroker(t, broker.Options{})
	return b
}

// runBroker runs a broker until stop is called or the test ends. It waits for
// its ports to become free.
func runBroker(t testing.TB, opts broker.Options) (b *broker.Broker, stop func()) {
	t.Helper()
	waittest.Eventually(t, "the broker can bind", func() bool {
		var err error
		b, err = broker.New(opts)
		return err == nil
	})
	ended := make(chan error, 1)
	go func() { ended <- b.Run(context.Background()) }()
	stop = sync.OnceFunc(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, broker.ErrClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return b, stop
}
