package integration

import (
	"fmt"
	"sync"
	"testing"

	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/waittest"
)

// inbox keeps the events that a subscriber received, by publisher.
type inbox struct {
	t   *testing.T
	mu  sync.Mutex
	by  map[uint64][]eventplane.Event
	bad []error
}

func newInbox(t *testing.T) *inbox {
	return &inbox{t: t, by: map[uint64][]eventplane.Event{}}
}

func (in *inbox) add(ev eventplane.Event) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.by[ev.PublisherID] = append(in.by[ev.PublisherID], ev)
}

func (in *inbox) addBad(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.bad = append(in.bad, err)
}

func (in *inbox) of(publisher uint64) []eventplane.Event {
	in.mu.Lock()
	defer in.mu.Unlock()
	return append([]eventplane.Event(nil), in.by[publisher]...)
}

func (in *inbox) received(publisher uint64) int { return len(in.of(publisher)) }

func (in *inbox) missed(publisher uint64) (n uint64) {
	for _, ev := range in.of(publisher) {
		n += ev.Missed
	}
	return n
}

// awaitLast waits for the event whose N is last.
func (in *inbox) awaitLast(publisher uint64, last int) {
	in.t.Helper()
	waittest.Eventually(in.t, fmt.Sprintf("event %d of %x", last, publisher), func() bool {
		events := in.of(publisher)
		if len(events) == 0 {
			return false
		}
		var ev kvEvent
		if err := events[len(events)-1].Decode(&ev); err != nil {
			in.t.Fatal(err)
		}
		return ev.N == last
	})
}

// expectComplete requires the events 0 to n-1 in order, once each, with no
// sequence missing. Events with a negative N introduced the publisher before.
func (in *inbox) expectComplete(publisher uint64, n int) {
	in.t.Helper()
	want := 0
	var last uint64
	for i, got := range in.of(publisher) {
		var ev kvEvent
		if err := got.Decode(&ev); err != nil {
			in.t.Fatal(err)
		}
		if got.Missed != 0 || i > 0 && got.Sequence != last+1 {
			in.t.Fatalf("publisher %x: sequence %d after %d, missed %d", publisher, got.Sequence, last, got.Missed)
		}
		last = got.Sequence
		if ev.N < 0 {
			continue
		}
		if ev.N != want || ev.Worker != publisher || len(ev.Blocks) != 2 || ev.Blocks[0] != 1<<64-1 || ev.Blocks[1] != uint64(want) {
			in.t.Fatalf("publisher %x: event %+v, want number %d", publisher, ev, want)
		}
		want++
	}
	if want != n {
		in.t.Fatalf("publisher %x: %d events, want %d", publisher, want, n)
	}
}

func (in *inbox) expectNothingOf(publisher uint64) {
	in.t.Helper()
	if n := in.received(publisher); n != 0 {
		in.t.Errorf("received %d events of %x, which is in another scope or on another topic", n, publisher)
	}
}
