package eventplane_test

import (
	"testing"

	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestSlowReader has a subscriber that does not call Next while more arrives than
// its queue holds. Each event is received or counted as missed.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	const sent, room = 500, 20 // libzmq holds 1,000
	for name, setup := range transports() {
		if name == "brokers" {
			continue // each event arrives twice, so that the numbers differ
		}
		for _, overflow := range []eventplane.Overflow{eventplane.DropOldest, eventplane.DropNewest, eventplane.Block} {
			t.Run(name+"/"+overflow.String(), func(t *testing.T) {
				t.Parallel()
				p, ctx := connectWith(t, setup(t), eventplane.SubscriberOptions{QueueSize: room, Overflow: overflow, Gaps: true}), patient(t)
				for i := range sent {
					must(t, p.pub.Publish(ctx, i))
				}
				last, lost := p.next+sent-1, uint64(sent-room)
				if overflow == eventplane.Block {
					lost = 0
				}
				waittest.Eventually(t, "all events that the queue cannot hold are dropped", func() bool { return p.sub.Stats().Dropped == lost })
				if overflow == eventplane.DropNewest { // a later event shows the gap
					_, err := p.sub.Next(ctx)
					must(t, err)
					must(t, p.pub.Publish(ctx, sent))
					last++
				}
				var missed, inGaps uint64
				for seq := uint64(0); seq != last; {
					ev, err := p.sub.Next(ctx)
					must(t, err)
					if ev.Gap != nil {
						inGaps += ev.Gap.Last - ev.Gap.First + 1
						continue
					}
					missed += ev.Missed
					seq = ev.Sequence
				}
				if st := p.sub.Stats(); missed != lost || inGaps != lost || st.Missed != lost || st.Dropped != lost {
					t.Errorf("missed %d, %d in gaps, stats %+v: want %d", missed, inGaps, st, lost)
				}
			})
		}
	}
}

// TestShutdownWithAFullQueue ends a subscriber whose queue blocks.
func TestShutdownWithAFullQueue(t *testing.T) {
	t.Parallel()
	for name, setup := range transports() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, ctx := connectWith(t, setup(t), eventplane.SubscriberOptions{QueueSize: 1, Overflow: eventplane.Block}), patient(t)
			for i := range 3000 {
				must(t, p.pub.Publish(ctx, i))
			}
			_, err := p.sub.Next(ctx)
			must(t, err)
			must(t, p.sub.Shutdown(ctx))
		})
	}
}

func TestParseOverflow(t *testing.T) {
	t.Parallel()
	for _, o := range []eventplane.Overflow{eventplane.DropOldest, eventplane.DropNewest, eventplane.Block} {
		if got, err := eventplane.ParseOverflow(o.String()); err != nil || got != o {
			t.Errorf("%v: got %v, %v", o, got, err)
		}
	}
	if _, err := eventplane.ParseOverflow("drop"); err == nil {
		t.Error("drop: no error")
	}
}
