package kube

import (
	"context"
	"encoding/hex"
	"fmt"
	stdslices "slices" // slices are EndpointSlices here
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestDynamo has, for each transport, a worker and a subscriber of the real
// runtime meet ours on Kubernetes. `make interop` runs it; package
// integration/dynamo has such tests for the other stores.
func TestDynamo(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	program, err := dynamotest.BuildBroker(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{dynamotest.Gen2, dynamotest.Gen1} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			for _, transport := range transportsOf(version) {
				t.Run(transport, func(t *testing.T) {
					t.Parallel()
					d := newDynamo(c.in(t), version, transport, program)
					t.Run("theirs", func(t *testing.T) { d.receive(t) })
					t.Run("ours", func(t *testing.T) { d.publish(t) })
				})
			}
		})
	}
}

// transportsOf leaves out brokers by discovery for the older generation, which
// looks for them once, and does not wait until it has listed the objects.
func transportsOf(version string) []string {
	all := []string{"direct", "broker by URL", "two brokers", "NATS"}
	if version == dynamotest.Gen1 {
		return all
	}
	return append(all, "broker by discovery")
}

// receive has a worker publish, and then end.
func (d dynamo) receive(t *testing.T) {
	d.T = t
	d.setReady("worker=1", "reader=2")
	store, plane := d.openOurs(t, "reader", "2")
	worker := d.start(t, "worker.py", "worker", "1")
	publisher := d.awaitWorker(t, store, worker.Await("ready", 1).WorkerID)
	sub, err := plane.Subscriber(t.Context(), d.scope(), "kv-events")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*waittest.Patience)
	defer cancel()
	if err := sub.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	// Publishers connect to brokers in the background: the first events may be
	// published before, which no subscriber can detect.
	var ev eventplane.Event
	waittest.Eventually(t, "an event arrives", func() bool {
		worker.Ask(map[string]any{"publish": 1}, "sent")
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		ev, err = sub.Next(ctx)
		return err == nil
	})
	total := worker.Ask(map[string]any{"publish": 20}, "sent").Total
	first := ev
	for n := uint64(0); d.lastEventID(t, ev) != total; n++ {
		if ev, err = sub.Next(ctx); err != nil {
			t.Fatalf("after event %d of %d: %v", d.lastEventID(t, first), total, err)
		}
		if ev.PublisherID != first.PublisherID || ev.Sequence != first.Sequence+n+1 || ev.Missed != 0 {
			t.Fatalf("publisher %d, sequence %d, %d missed; the first: publisher %d, sequence %d",
				ev.PublisherID, ev.Sequence, ev.Missed, first.PublisherID, first.Sequence)
		}
	}
	if publisher != 0 && first.PublisherID != publisher {
		t.Errorf("events of publisher %d, registered %d", first.PublisherID, publisher)
	}
	worker.Signal(syscall.SIGTERM)
	if d.version == dynamotest.Gen1 {
		d.setReady("reader=2") // it leaves its endpoint to the end of its pod
	}
	waittest.Eventually(t, "the worker is removed", func() bool { return len(endpoints(t, store)) == 0 })
}

// awaitWorker waits until a worker is registered, and returns the id of its
// publisher, or 0 with brokers: the runtime registers no channels then.
func (d dynamo) awaitWorker(t *testing.T, store *discovery.Client, id uint64) (publisher uint64) {
	t.Helper()
	query := discovery.Query{Kind: discovery.KindEventChannel, Scope: d.scope(), Topic: "kv-events"}
	waittest.Eventually(t, "the worker is registered", func() bool {
		channels, err := store.List(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		if len(channels) == 1 {
			publisher = channels[0].InstanceID
		}
		return (publisher != 0 || d.hasBrokers()) &&
			stdslices.ContainsFunc(endpoints(t, store), func(in discovery.Instance) bool { return in.InstanceID == id })
	})
	return publisher
}

// lastEventID returns the last event id in an event on kv-events. The ids of a
// worker begin with 1.
func (d dynamo) lastEventID(t *testing.T, ev eventplane.Event) int {
	t.Helper()
	type routerEvent struct {
		Event struct {
			ID int `json:"event_id"`
		} `json:"event"`
	}
	events := make([]routerEvent, 1)
	var err error
	if d.version == dynamotest.Gen1 {
		err = ev.Decode(&events[0])
	} else {
		err = ev.Decode(&events)
	}
	if err != nil || len(events) == 0 {
		t.Fatalf("%v events, %v", events, err)
	}
	return events[len(events)-1].Event.ID
}

func endpoints(t *testing.T, store *discovery.Client) []discovery.Instance {
	t.Helper()
	found, err := store.List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint, Scope: generate})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// publish has a real subscriber receive ours.
func (d dynamo) publish(t *testing.T) {
	d.T = t
	d.setReady("publisher=3", "subscriber=4")
	store, plane := d.openOurs(t, "publisher", "3")
	reg, err := store.Register(t.Context(), discovery.Endpoint{Scope: generate, Transport: discovery.TCP("127.0.0.1:9/1/generate")})
	if err != nil {
		t.Fatal(err)
	}
	pub, err := plane.Publisher(t.Context(), d.scope(), "forward-pass-metrics")
	if err != nil {
		t.Fatal(err)
	}
	subscriber := d.start(t, "subscriber.py", "subscriber", "4")
	waittest.Eventually(t, "the runtime finds our endpoint", func() bool {
		return stdslices.Contains(subscriber.Ask(map[string]any{}, "instances").Instances, reg.Instance().InstanceID)
	})
	send := func(payload string) {
		t.Helper()
		if err := pub.PublishBytes(t.Context(), []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	waittest.Eventually(t, "the subscriber receives", func() bool {
		send("probe")
		return len(subscriber.Lines("event")) > 0
	})
	const events = 20
	var want []string
	for i := range events {
		payload := fmt.Sprint("event ", i)
		send(payload)
		want = append(want, hex.EncodeToString([]byte(payload)))
	}
	var got []string
	waittest.Eventually(t, "the subscriber receives all events", func() bool {
		got = nil
		for _, line := range subscriber.Lines("event") {
			if line.Payload != hex.EncodeToString([]byte("probe")) {
				got = append(got, line.Payload)
			}
		}
		return len(got) >= events
	})
	if strings.Contains(d.env["DYN_ZMQ_BROKER_URL"], ";") { // the runtime does not restore the order
		stdslices.Sort(got)
		stdslices.Sort(want)
	}
	if !stdslices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
}
