//go:build cgo && !nozmq

package zmq_test

import (
	"encoding/binary"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/eventplane/drivertest"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// conformanceOptions let control messages carry their times.
var conformanceOptions = zmqdriver.Options{
	ControlBody: func(dst []byte, _, _, at uint64) []byte { return binary.BigEndian.AppendUint64(dst, at) },
	ControlTime: func(body []byte) (uint64, error) { return binary.BigEndian.Uint64(body), nil },
}

func TestConformance(t *testing.T) {
	t.Parallel()
	harness := func(t *testing.T) drivertest.Harness {
		d := &direct{zc: open(t, conformanceOptions)}
		return drivertest.Harness{NewPublisher: d.publisher, NewSubscriber: d.subscriber}
	}
	drivertest.Run(t, harness)
	drivertest.RunReplay(t, harness)
}

// direct is a harness that connects each subscriber to each publisher.
type direct struct {
	zc *zmqdriver.Context

	mu   sync.Mutex
	pubs []*zmqdriver.Publisher
	subs []*zmqdriver.Subscriber
}

func (d *direct) publisher(t *testing.T) driver.Publisher {
	d.mu.Lock()
	defer d.mu.Unlock()
	pub := directPublisher(t, d.zc)
	for _, sub := range d.subs {
		connect(t, sub, pub.Endpoint())
	}
	d.pubs = append(d.pubs, pub)
	return pub
}

func (d *direct) subscriber(t *testing.T, subject string) driver.Subscriber {
	d.mu.Lock()
	defer d.mu.Unlock()
	sub := subscribe(t, d.zc, subject)
	for _, pub := range d.pubs {
		connect(t, sub, pub.Endpoint())
	}
	d.subs = append(d.subs, sub)
	return sub
}

func open(t testing.TB, opts zmqdriver.Options) *zmqdriver.Context {
	t.Helper()
	zc, err := zmqdriver.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := zc.Close(); err != nil {
			t.Error(err)
		}
	})
	return zc
}

func directPublisher(t testing.TB, zc *zmqdriver.Context) *zmqdriver.Publisher {
	t.Helper()
	pub, err := zc.DirectPublisher("127.0.0.1", "kv-events", 1)
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func brokerPublisher(t testing.TB, zc *zmqdriver.Context, subject string) *zmqdriver.Publisher {
	t.Helper()
	pub, err := zc.BrokerPublisher(subject)
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func subscribe(t testing.TB, zc *zmqdriver.Context, subject string) *zmqdriver.Subscriber {
	t.Helper()
	sub, err := zc.Subscribe(subject)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

func connect(t testing.TB, c driver.Connector, endpoint string) {
	t.Helper()
	if err := c.Connect(endpoint); err != nil {
		t.Fatal(err)
	}
}
