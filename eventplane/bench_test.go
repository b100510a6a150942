package eventplane_test

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/natsconn"
)

// The benchmarks publish in bursts and take each burst off again, so that
// nothing is dropped. The raw ones do the same on the library beneath.
const (
	burst       = 256
	payloadSize = 256
)

func BenchmarkPublishNext(b *testing.B) {
	for name, setup := range transports() {
		b.Run(name, func(b *testing.B) {
			p, payload, ctx := connect(b, setup(b)), make([]byte, payloadSize), context.Background()
			b.ReportAllocs()
			for b.Loop() {
				for range burst {
					must(b, p.pub.PublishBytes(ctx, payload))
				}
				for range burst {
					ev, err := p.sub.Next(ctx)
					must(b, err)
					if ev.Missed != 0 {
						b.Fatal("missed ", ev.Missed)
					}
				}
			}
			perEvent(b)
		})
	}
}

// perEvent reports the time of an event beside that of a burst.
func perEvent(b *testing.B) {
	b.Helper()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*burst), "ns/event")
	b.SetBytes(payloadSize * burst)
}

func BenchmarkRawNATS(b *testing.B) {
	cfg := natsconn.Config{URL: natstest.Run(b).URL()}
	var conns [2]*nats.Conn
	for i := range conns {
		nc, err := natsconn.Connect(patient(b), cfg)
		must(b, err)
		b.Cleanup(nc.Close)
		conns[i] = nc
	}
	sub, err := conns[1].SubscribeSync("events")
	must(b, err)
	must(b, conns[1].Flush())
	payload, ctx := make([]byte, payloadSize), context.Background()
	b.ReportAllocs()
	for b.Loop() {
		for range burst {
			must(b, conns[0].Publish("events", payload))
		}
		for range burst {
			_, err := sub.NextMsgWithContext(ctx)
			must(b, err)
		}
	}
	perEvent(b)
}
