package dynamo

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/waittest"
)

// inbox collects the events of a subscriber of ours.
type inbox struct {
	sub    *eventplane.Subscriber
	mu     sync.Mutex
	events []eventplane.Event
}

// subscribe opens a subscriber and waits until it is ready.
func subscribe(t *testing.T, plane *eventplane.Client, scope discovery.Scope, topic string) *inbox {
	t.Helper()
	sub := retry(t, "open a subscriber", func() (*eventplane.Subscriber, error) { return plane.Subscriber(t.Context(), scope, topic) })
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	if err := sub.Ready(ctx); err != nil {
		t.Fatalf("the subscriber of %s is not ready: %v", topic, err)
	}
	in := &inbox{sub: sub}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			ev, err := sub.Next(context.Background())
			if errors.Is(err, eventplane.ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("%s: %v", topic, err)
				return
			}
			in.mu.Lock()
			in.events = append(in.events, ev)
			in.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		shutdown(t, sub)
		<-ended
	})
	return in
}

// all returns the events so far.
func (in *inbox) all() []eventplane.Event {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clip(in.events)
}

// whole checks that the events are those of one publisher, and that none is missing
// after the first. It returns the id of the publisher.
func (in *inbox) whole(t *testing.T, topic string) uint64 {
	t.Helper()
	publishers := in.publishers(t, topic)
	if len(publishers) != 1 {
		t.Fatalf("%s: events of %v, want one publisher", topic, publishers)
	}
	return publishers[0]
}

// publishers checks that the events of each publisher are in order, and that none is
// missing after the first. It returns the ids of the publishers, sorted.
func (in *inbox) publishers(t *testing.T, topic string) []uint64 {
	t.Helper()
	last := make(map[uint64]uint64)
	for i, ev := range in.all() {
		before, found := last[ev.PublisherID]
		if found && ev.Sequence != before+1 || ev.Missed != 0 || ev.Topic != topic {
			t.Fatalf("event %d: publisher %d, sequence %d after %d, %d missed, topic %q",
				i, ev.PublisherID, ev.Sequence, before, ev.Missed, ev.Topic)
		}
		last[ev.PublisherID] = ev.Sequence
	}
	// Events out of order are discarded: with two brokers there may be some that
	// were published before the first.
	if s := in.sub.Stats(); s.DecodeErrors+s.Dropped+s.Gaps > 0 {
		t.Errorf("%s: %+v", topic, s)
	}
	return slices.Sorted(maps.Keys(last))
}
