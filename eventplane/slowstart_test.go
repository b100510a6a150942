package eventplane_test

import (
	"fmt"
	"testing"

	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestReaderIsSlowBeforeTheFirstEvent has a reader whose queue overflows before it
// calls Next: the events that are dropped are recovered, or else counted as missed.
func TestReaderIsSlowBeforeTheFirstEvent(t *testing.T) {
	t.Parallel()
	for name, setup := range transports() {
		if name == "brokers" { // of several paths, none is the starting point
			continue
		}
		for _, recovers := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/recover=%v", name, recovers), func(t *testing.T) {
				t.Parallel()
				const events, size = 500, 20
				ctx, m, cfg := patient(t), memory.New(), setup(t)
				pub, err := newPlane(t, cfg, newDiscovery(t, m)).Publisher(ctx, backend, "kv-events")
				must(t, err)
				must(t, pub.Ready(ctx))
				sub, err := newPlane(t, cfg, newDiscovery(t, m)).SubscriberWithOptions(ctx, backend, "kv-events",
					eventplane.SubscriberOptions{QueueSize: size, Recover: recovers})
				must(t, err)
				must(t, sub.Ready(ctx))
				for i := range events {
					must(t, pub.Publish(ctx, i))
				}
				waittest.Eventually(t, "all events have arrived", func() bool { return sub.Stats().Dropped >= events-size })
				received, missed := 0, uint64(0)
				for sequence := uint64(0); sequence < events-1; received++ {
					ev, err := sub.Next(ctx)
					must(t, err)
					sequence, missed = ev.Sequence, missed+ev.Missed
				}
				if received+int(missed) != events || recovers && missed > 0 || !recovers && received != size {
					t.Errorf("%d events received, %d missed, stats %+v", received, missed, sub.Stats())
				}
			})
		}
	}
}
