package dynamo

import (
	"context"
	"errors"
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
	sub, err := plane.Subscriber(t.Context(), scope, topic)
	if err != nil {
		t.Fatal(err)
	}
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

// whole checks that the events are those of one publisher, in order, and that
// none is missing after the first. It returns the id of the publisher.
func (in *inbox) whole(t *testing.T, topic string) uint64 {
	t.Helper()
	events := in.all()
	first := events[0]
	for i, ev := range events {
		if ev.PublisherID != first.PublisherID || ev.Sequence != first.Sequence+uint64(i) || ev.Missed != 0 || ev.Topic != topic {
			t.Fatalf("event %d: publisher %d, sequence %d, %d missed, topic %q; the first: publisher %d, sequence %d",
				i, ev.PublisherID, ev.Sequence, ev.Missed, ev.Topic, first.PublisherID, first.Sequence)
		}
	}
	// Events out of order are discarded: with two brokers there may be some that
	// were published before the first.
	if s := in.sub.Stats(); s.DecodeErrors+s.Dropped+s.Gaps > 0 {
		t.Errorf("%s: %+v", topic, s)
	}
	return first.PublisherID
}
