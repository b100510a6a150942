//go:build cgo && !nozmq

package eventplane_test

import (
	"testing"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/eventplane/driver"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/wait"
)

// TestEventsOfUnlistedPublishers has a registration whose port another publisher
// has taken over. Its events are not delivered, except to a subscriber of the older
// generation, whose workers have ids that differ from those of their channels.
func TestEventsOfUnlistedPublishers(t *testing.T) {
	t.Parallel()
	for _, wire := range []eventplane.WireFormat{eventplane.WireGen2, eventplane.WireGen1} {
		t.Run(wire.String(), func(t *testing.T) {
			t.Parallel()
			ctx, m := patient(t), memory.New()
			zc, err := zmqdriver.New(zmqdriver.Options{})
			must(t, err)
			t.Cleanup(func() { must(t, zc.Close()) })
			other, err := zc.DirectPublisher("127.0.0.1", "kv-events", 1)
			must(t, err)
			_, err = newDiscovery(t, m).RegisterAs(ctx, 1, discovery.EventChannel{
				Scope: backend, Topic: "kv-events", Transport: discovery.ZMQ{Endpoint: other.Endpoint()},
			})
			must(t, err)
			cfg := directConfig()
			cfg.Wire = wire
			sub, err := newPlane(t, cfg, newDiscovery(t, m)).Subscriber(ctx, backend, "kv-events")
			must(t, err)
			must(t, sub.Ready(ctx))
			received := make(chan eventplane.Event, 1)
			go func() {
				if ev, err := sub.Next(ctx); err == nil {
					received <- ev
				}
			}()
			publish := func(id, seq uint64) {
				env := codec.Envelope{PublisherID: id, Sequence: seq, PublishedAt: 1 + seq, Topic: "kv-events", Payload: []byte{0x80}}
				body, err := env.Append(nil, codec.Msgpack)
				must(t, err)
				must(t, other.Publish(ctx, &driver.Message{Subject: "kv-events", PublisherID: id, Sequence: seq, Body: body}))
			}
			want := uint64(2)
			for seq := uint64(0); wire == eventplane.WireGen2 && sub.Stats().Unlisted == 0; seq++ {
				publish(2, seq)
				must(t, wait.Sleep(ctx, time.Millisecond))
				want = 1
			}
			for seq := uint64(0); ; seq++ {
				publish(want, seq)
				select {
				case ev := <-received:
					if ev.PublisherID != want {
						t.Errorf("event of publisher %d: want %d", ev.PublisherID, want)
					}
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
}
