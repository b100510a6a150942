package eventplane_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/natsconn"
)

// openPair returns a pair of a topic whose events arrive.
func openPair(t *testing.T, plane *eventplane.Client, topic string) *pair {
	t.Helper()
	ctx := patient(t)
	pub, err := plane.Publisher(ctx, backend, topic)
	must(t, err)
	sub, err := plane.Subscriber(ctx, backend, topic)
	must(t, err)
	p := &pair{pub: pub, sub: sub}
	p.probe(t)
	return p
}

// TestLongTopicIsRefused covers a topic beyond the control line of NATS: the
// server would close the connection of the whole client.
func TestLongTopicIsRefused(t *testing.T) {
	t.Parallel()
	for name, setup := range transports() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, registry := patient(t), newDiscovery(t, memory.New())
			plane := newPlane(t, setup(t), registry)
			p := openPair(t, plane, "kv-events")
			if pub, err := plane.Publisher(ctx, backend, strings.Repeat("x", 5000)); err == nil {
				t.Errorf("a publisher of a topic of 5,000 bytes is opened; it publishes: %v", pub.Publish(ctx, 1))
			} else if text := err.Error(); !strings.Contains(text, "want at most 4000") || len(text) > 1000 {
				t.Errorf("got %q, want a short error with the limit", text)
			}
			if _, err := plane.Subscriber(ctx, backend, strings.Repeat("x", 5000)); err == nil {
				t.Error("a subscriber of a topic of 5,000 bytes is opened")
			}
			openPair(t, plane, strings.Repeat("x", 4000-len(backend.Subject(""))))
			p.probe(t)
			if channels, _ := registered(t, registry); len(channels) != 2 {
				t.Errorf("%d channels are registered, want those of the two topics that are not too long", len(channels))
			}
		})
	}
}

// TestClosedConnectionIsDialledAgain covers a server with a lower limit, which
// makes the client close its connection. Everything that is open on it fails, and
// what is opened afterwards works.
func TestClosedConnectionIsDialledAgain(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t, func(o *natstest.Options) { o.MaxControlLine = 512 })
	ctx, registry := patient(t), newDiscovery(t, memory.New())
	plane := newPlane(t, eventplane.Config{NATS: natsconn.Config{URL: srv.URL()}}, registry)
	p := openPair(t, plane, "kv-events")
	long, err := plane.Publisher(ctx, backend, strings.Repeat("x", 1000))
	must(t, err)
	waittest.Eventually(t, "the connection is closed", func() bool {
		return errors.Is(long.Publish(ctx, 1), nats.ErrConnectionClosed)
	})
	if err := p.pub.Publish(ctx, 1); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("publish on the closed connection: %v, want ErrConnectionClosed", err)
	}
	openPair(t, plane, "kv-events")
}
