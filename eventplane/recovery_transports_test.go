package eventplane_test

import (
	"testing"

	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestFromStart has a subscriber that joins a publisher that rests: it is found by
// discovery, and its history is received before what follows.
func TestFromStart(t *testing.T) {
	t.Parallel()
	const before, after = 2000, 100
	for name, setup := range transports() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, m, cfg := patient(t), memory.New(), setup(t)
			pub, err := newPlane(t, cfg, newDiscovery(t, m)).Publisher(ctx, backend, "kv-events")
			must(t, err)
			must(t, pub.Ready(ctx))
			for i := range before {
				must(t, pub.Publish(ctx, i))
			}
			sub, err := newPlane(t, cfg, newDiscovery(t, m)).SubscriberWithOptions(ctx, backend, "kv-events", eventplane.SubscriberOptions{FromStart: true})
			must(t, err)
			for want := range uint64(before) {
				ev, err := sub.Next(ctx)
				must(t, err)
				if ev.Sequence != want || ev.Missed != 0 {
					t.Fatalf("event %d, missed %d: want %d", ev.Sequence, ev.Missed, want)
				}
			}
			must(t, sub.Ready(ctx))
			for i := range after {
				must(t, pub.Publish(ctx, i))
			}
			for want := uint64(before); want < before+after; want++ {
				ev, err := sub.Next(ctx)
				must(t, err)
				if ev.Sequence != want || ev.Missed != 0 {
					t.Fatalf("event %d, missed %d: want %d", ev.Sequence, ev.Missed, want)
				}
			}
			if st := sub.Stats(); st.Missed+st.Recovered != 0 {
				t.Errorf("stats %+v: want no gap", st)
			}
		})
	}
}

// TestDroppedEventsAreRecovered has a subscriber that does not call Next while more
// arrives than its queue holds. It receives all, the last by a tick.
func TestDroppedEventsAreRecovered(t *testing.T) {
	t.Parallel()
	const sent, room = 900, 20 // libzmq holds 1,000
	for name, setup := range transports() {
		for _, overflow := range []eventplane.Overflow{eventplane.DropOldest, eventplane.DropNewest} {
			t.Run(name+"/"+overflow.String(), func(t *testing.T) {
				t.Parallel()
				o := eventplane.SubscriberOptions{QueueSize: room, Overflow: overflow, Gaps: true, Recover: true}
				p, ctx := connectWith(t, setup(t), o), patient(t)
				for i := range sent {
					must(t, p.pub.Publish(ctx, i))
				}
				waittest.Eventually(t, "events are dropped", func() bool { return p.sub.Stats().Dropped >= sent-room })
				recovered := uint64(0)
				for want := p.next; want < p.next+sent; {
					ev, err := p.sub.Next(ctx)
					must(t, err)
					switch {
					case ev.Gap != nil && ev.Gap.Recovered:
						recovered += ev.Gap.Last - ev.Gap.First + 1
					case ev.Gap != nil || ev.Sequence != want || ev.Missed != 0:
						t.Fatalf("event %+v: want %d", ev, want)
					default:
						want++
					}
				}
				if st := p.sub.Stats(); st.Missed != 0 || st.Recovered < (sent-room)/2 || recovered > st.Recovered {
					t.Errorf("%d in gaps, stats %+v", recovered, st)
				}
			})
		}
	}
}
