package dynamo

import (
	"encoding/hex"
	"slices"
	"testing"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// stream is a worker that publishes, received by a subscriber of ours and a real
// one at the same time. Both may lose events; finish accounts for them.
type stream struct {
	place  *place
	worker *dynamotest.Peer
	real   *dynamotest.Peer
	in     map[string]*inbox
	sent   int // acknowledgements awaited so far
}

// startStream returns once both subscribers receive.
func (p *place) startStream(t *testing.T, plane *eventplane.Client, worker *dynamotest.Peer) *stream {
	t.Helper()
	s := &stream{place: p, worker: worker, real: p.start(t, "subscriber.py"), in: make(map[string]*inbox)}
	for topic, scope := range scopes(p.version) {
		s.in[topic] = subscribe(t, plane, scope, topic)
	}
	p.connect(t, worker, s.in)
	waittest.Eventually(t, "the real subscriber receives", func() bool {
		p.step(t, worker, s.in)
		return len(s.passes(t)) > 0
	})
	return s
}

// publish has the worker publish n events in the background, every 4 ms.
func (s *stream) publish(n int) {
	s.sent = len(s.worker.Lines("sent"))
	s.worker.Send(map[string]any{"publish": n, "every": 0.004})
}

// published waits until the worker has published what publish began.
func (s *stream) published() { s.worker.Await("sent", s.sent+1) }

// losses are the events that two subscribers lost.
type losses struct{ ours, theirs int }

// finish publishes until both receive the last event, and accounts for the lost
// ones: ours are reported, each exactly once.
func (s *stream) finish(t *testing.T) losses {
	t.Helper()
	// Events that a worker publishes before it is connected again are lost, so that it must
	// publish several. Each has some time to arrive.
	total, last := 0, time.Time{}
	waittest.Eventually(t, "both receive again", func() bool {
		if time.Since(last) > 500*time.Millisecond {
			total = s.worker.Ask(map[string]any{"publish": 1}, "sent").Total
			last = time.Now()
		}
		return s.place.last(t, s.in, total) && slices.Contains(s.passes(t), total)
	})
	received, missed := s.account(t, total)
	ours := passesOf(t, s.in[fpm].all())
	theirs := s.passes(t)
	lost := losses{total - ours[0] + 1 - len(ours), total - theirs[0] + 1 - len(theirs)}
	t.Logf("%d events; kv-events: ours received %d, missed %d; forward passes lost: ours %d, theirs %d",
		total, received, missed, lost.ours, lost.theirs)
	return lost
}

// account compares Missed, which counts messages, with the ids of the events on
// kv-events, which workers number by themselves. A busy worker puts several events
// into one message.
func (s *stream) account(t *testing.T, total int) (received, missed int) {
	t.Helper()
	first, last := 0, 0
	for _, ev := range s.in[kvEvents].all() {
		for i, got := range routerEvents(t, s.place.version, ev) {
			id := int(got.Event.EventID)
			if first == 0 {
				first, last = id, id-1
			}
			messages, events := 0, id-last-1
			if i == 0 {
				messages = int(ev.Missed)
			}
			if events < messages || (events > 0) != (messages > 0) {
				t.Fatalf("event %d after %d with %d messages missed", id, last, messages)
			}
			last, received, missed = id, received+1, missed+events
		}
	}
	if received+missed != total-first+1 {
		t.Errorf("received %d, missed %d of %d events from %d", received, missed, total, first)
	}
	return received, missed
}

// passes returns the numbers of the forward passes that the real subscriber has
// received, in order: the runtime does not restore it with two brokers.
func (s *stream) passes(t *testing.T) (numbers []int) {
	t.Helper()
	var got forwardPass
	for _, line := range s.real.Lines("event") {
		payload, err := hex.DecodeString(line.Payload)
		if err != nil {
			t.Fatal(err)
		}
		got = forwardPass{}
		if err := codec.Msgpack.Unmarshal(payload, &got); err != nil {
			t.Fatal(err)
		}
		if got.Scheduled.Prefills > 0 {
			numbers = append(numbers, got.Scheduled.Prefills)
		}
	}
	slices.Sort(numbers)
	if len(slices.Compact(slices.Clone(numbers))) != len(numbers) {
		t.Errorf("the real subscriber received %v", numbers)
	}
	return numbers
}

func passesOf(t *testing.T, events []eventplane.Event) (numbers []int) {
	t.Helper()
	for _, ev := range events {
		if n := decode[forwardPass](t, ev).Scheduled.Prefills; n > 0 {
			numbers = append(numbers, n)
		}
	}
	return numbers
}
