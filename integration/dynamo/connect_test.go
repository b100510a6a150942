package dynamo

import (
	"slices"
	"testing"

	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// connect has a worker publish until events of all its topics arrive, with two
// brokers over both: an event that arrives twice shows that no earlier one is
// still on its way.
//
// Publishers connect to brokers in the background: the first events may be
// published before, which no subscriber can detect.
func (p *place) connect(t *testing.T, worker *dynamotest.Peer, in map[string]*inbox) {
	t.Helper()
	before := make(map[string]uint64)
	for topic := range in {
		before[topic] = in[topic].sub.Stats().Duplicates
	}
	waittest.Eventually(t, "events of all topics arrive", func() bool {
		p.step(t, worker, in)
		for topic := range in {
			if len(in[topic].all()) == 0 || len(p.brokers) > 1 && in[topic].sub.Stats().Duplicates == before[topic] {
				return false
			}
		}
		return true
	})
}

// step has a worker publish one event on each topic, and waits for it on those
// that are connected. With two brokers, the next event could otherwise overtake it
// on a path that has just been connected.
func (p *place) step(t *testing.T, worker *dynamotest.Peer, in map[string]*inbox) {
	t.Helper()
	total := worker.Ask(map[string]any{"publish": 1}, "sent").Total
	for topic := range in {
		if len(in[topic].all()) > 0 {
			waittest.Eventually(t, "the next event arrives on "+topic, func() bool { return p.has(t, topic, in[topic], total) })
		}
	}
}

// last reports whether the last of n events has arrived on each topic.
func (p *place) last(t *testing.T, in map[string]*inbox, n int) bool {
	t.Helper()
	for topic := range in {
		if !p.has(t, topic, in[topic], n) {
			return false
		}
	}
	return true
}

// has reports whether the last of n events has arrived on a topic.
func (p *place) has(t *testing.T, topic string, in *inbox, n int) bool {
	t.Helper()
	events := in.all()
	if len(events) == 0 {
		return false
	}
	newest := events[len(events)-1]
	switch topic {
	case kvEvents:
		received := routerEvents(t, p.version, newest)
		blocks := received[len(received)-1].Event.Data.Stored.Blocks
		return len(blocks) == 1 && blocks[0].BlockHash == blockHash(n-1)
	case load:
		used := decode[activeLoad](t, newest).DecodeBlocks
		return used != nil && *used == n-1
	}
	for _, ev := range slices.Backward(events) { // idle workers publish zeros
		if prefills := decode[forwardPass](t, ev).Scheduled.Prefills; prefills > 0 {
			return prefills == n
		}
	}
	return false
}
