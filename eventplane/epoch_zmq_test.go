//go:build cgo && !nozmq

package eventplane_test

import (
	"context"
	"testing"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/eventplane/driver"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/wait"
)

// life is one life of a publisher: its sequences begin at 0.
type life struct {
	pub  *zmqdriver.Publisher
	id   uint64
	next uint64
}

// newLife opens a publisher at brokers.
func newLife(t *testing.T, id uint64, brokers ...*proxy) *life {
	t.Helper()
	zc, err := zmqdriver.New(zmqdriver.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, zc.Close()) })
	pub, err := zc.BrokerPublisher(backend.Subject("kv-events"))
	must(t, err)
	for _, b := range brokers {
		must(t, pub.Connect(b.xsub))
	}
	must(t, pub.Ready(patient(t)))
	return &life{pub: pub, id: id}
}

func (l *life) publish(t *testing.T) {
	t.Helper()
	env := codec.Envelope{
		PublisherID: l.id, Sequence: l.next, PublishedAt: uint64(time.Now().UnixMilli()),
		Topic: "kv-events", Payload: []byte{0x80},
	}
	l.next++
	body, err := env.Append(nil, codec.Msgpack)
	must(t, err)
	must(t, l.pub.Publish(patient(t), &driver.Message{
		Subject: backend.Subject("kv-events"), PublisherID: l.id, Sequence: env.Sequence, Body: body,
	}))
}

// TestSecondLifeOfAPublisher restarts a publisher under its id, with brokers that
// are found by discovery: its sequences begin at 0 again.
func TestSecondLifeOfAPublisher(t *testing.T) {
	t.Parallel()
	const id, count = 7, 1000
	for name, brokers := range map[string][]*proxy{
		"one broker": {startProxy(t)}, "two brokers": {startProxy(t), startProxy(t)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, m := patient(t), memory.New()
			for i, b := range brokers {
				b.register(t, newDiscovery(t, m), uint64(i+1))
			}
			cfg := directConfig()
			cfg.Broker.Discover = true
			sub, err := newPlane(t, cfg, newDiscovery(t, m)).Subscriber(ctx, backend, "kv-events")
			must(t, err)
			must(t, sub.Ready(ctx))
			warm := newLife(t, 1, brokers...) // until the brokers forward
			for sub.Stats().Duplicates < uint64(len(brokers)-1) || sub.Stats().Received == 0 {
				must(t, ctx.Err())
				warm.publish(t)
				short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
				_, _ = sub.Next(short)
				cancel()
			}
			for range 2 {
				l := newLife(t, id, brokers...)
				for range count {
					l.publish(t)
				}
				expectEvents(t, sub, id, 0, count)
				must(t, l.pub.Close())
				must(t, wait.Sleep(ctx, 2*time.Millisecond)) // so that the lives differ in time
			}
			if got := sub.Stats(); got.Missed != 0 || got.Restarts != 1 || got.OutOfOrder != 0 {
				t.Errorf("stats %+v: want one restart and nothing missed", got)
			}
		})
	}
}

// expectEvents receives count events of a publisher, from a sequence.
func expectEvents(t *testing.T, sub *eventplane.Subscriber, id, from, count uint64) {
	t.Helper()
	ctx := patient(t)
	for seq := from; seq < from+count; {
		ev, err := sub.Next(ctx)
		must(t, err)
		if ev.PublisherID != id {
			continue
		}
		if ev.Sequence != seq || ev.Missed != 0 {
			t.Fatalf("sequence %d, missed %d: want %d and 0", ev.Sequence, ev.Missed, seq)
		}
		seq++
	}
}
