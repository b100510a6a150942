package nats_test

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/eventplane/drivertest"
	natsdriver "github.com/dynplane/dynplane/eventplane/nats"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dial(tb testing.TB, srv *natstest.Server, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	nc, err := nats.Connect(srv.URL(), opts...)
	must(tb, err)
	tb.Cleanup(nc.Close)
	return nc
}

func subscribe(tb testing.TB, nc *nats.Conn, subject string) *natsdriver.Subscriber {
	tb.Helper()
	sub, err := natsdriver.Subscribe(nc, subject)
	must(tb, err)
	tb.Cleanup(func() { must(tb, sub.Close()) })
	return sub
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func deadline(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
	tb.Cleanup(cancel)
	return ctx
}

// flush waits as long as it takes until the server has what was published. The
// wait of Publisher.Close is bounded, which a busy server can exceed.
func flush(tb testing.TB, nc *nats.Conn) {
	tb.Helper()
	must(tb, nc.FlushWithContext(deadline(tb)))
}

func TestConformance(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, harness)
	drivertest.RunReplay(t, harness)
}

func harness(t *testing.T) drivertest.Harness {
	t.Helper()
	srv := natstest.Run(t)
	return drivertest.Harness{
		NewPublisher: func(t *testing.T) driver.Publisher {
			t.Helper()
			nc := dial(t, srv)
			pub := natsdriver.NewPublisher(nc)
			t.Cleanup(func() {
				flush(t, nc)
				must(t, pub.Close())
			})
			return pub
		},
		NewSubscriber: func(t *testing.T, subject string) driver.Subscriber {
			t.Helper()
			return subscribe(t, dial(t, srv), subject)
		},
	}
}

func TestEventsPublishedAfterReadyArrive(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	pub, ctx := natsdriver.NewPublisher(dial(t, srv)), deadline(t)
	nc := dial(t, srv)
	for range 100 {
		sub := subscribe(t, nc, "events")
		must(t, sub.Ready(ctx))
		must(t, pub.Publish(ctx, &driver.Message{Subject: "events", Body: []byte("x")}))
		var m driver.Message
		must(t, sub.Next(ctx, &m))
		must(t, sub.Close())
	}
}

func TestReadyWaitsForTheServer(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	nc := dial(t, srv, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	lost := nc.StatusChanged(nats.RECONNECTING)
	srv.Stop()
	<-lost
	sub := subscribe(t, nc, "events")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := sub.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ready without a server: %v", err)
	}
	nc.Close()
	if err := sub.Ready(deadline(t)); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("ready on a closed connection: %v", err)
	}
	var m driver.Message
	if err := sub.Next(deadline(t), &m); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("next on a closed connection: %v", err)
	}
}

// A subscriber that does not call Next while more arrives than its queue holds
// returns the oldest or the newest, and counts the rest.
func TestDroppedIsExact(t *testing.T) {
	t.Parallel()
	const sent, room = 2000, 100
	for overflow, first := range map[driver.Overflow]uint64{driver.DropOldest: sent - room, driver.DropNewest: 0} {
		t.Run(overflow.String(), func(t *testing.T) {
			t.Parallel()
			srv := natstest.Run(t)
			ctx, nc := deadline(t), dial(t, srv)
			sub, err := natsdriver.SubscribeWith(nc, "events", natsdriver.Options{Queue: driver.QueueOptions{Size: room, Overflow: overflow}})
			must(t, err)
			must(t, sub.Ready(ctx))
			pub := natsdriver.NewPublisher(dial(t, srv))
			for i := range uint64(sent) {
				must(t, pub.Publish(ctx, &driver.Message{Subject: "events", Body: binary.BigEndian.AppendUint64(nil, i)}))
			}
			waittest.Eventually(t, "all others are dropped", func() bool { return sub.Dropped() == sent-room })
			var m driver.Message
			for i := range uint64(room) {
				must(t, sub.Next(ctx, &m))
				if got := binary.BigEndian.Uint64(m.Body); got != first+i {
					t.Fatalf("message %d: want %d", got, first+i)
				}
			}
			must(t, sub.Close())
			if got := sub.Dropped(); got != sent-room {
				t.Errorf("dropped %d after Close: want %d", got, sent-room)
			}
		})
	}
}

// A queue that blocks leaves messages in nats.go, which drops and counts those that
// it has no room for.
func TestBlockingQueueCountsWhatNATSDrops(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	ctx, nc := deadline(t), dial(t, srv)
	sub, err := natsdriver.SubscribeWith(nc, "events", natsdriver.Options{Queue: driver.QueueOptions{Size: 10, Overflow: driver.Block}})
	must(t, err)
	must(t, sub.Ready(ctx))
	const sent = 100_000 // more than nats.go holds
	publishing := dial(t, srv)
	pub := natsdriver.NewPublisher(publishing)
	for range sent {
		must(t, pub.Publish(ctx, &driver.Message{Subject: "events", Body: []byte("x")}))
	}
	flush(t, publishing)
	must(t, sub.Ready(ctx)) // all messages have arrived
	dropped := sub.Dropped()
	var m driver.Message
	for range sent - dropped {
		must(t, sub.Next(ctx, &m))
	}
	if dropped == 0 || sub.Dropped() != dropped {
		t.Errorf("dropped %d, then %d: want the same, and more than none", dropped, sub.Dropped())
	}
	must(t, sub.Close())
}

func TestPublishReportsTheServersLimit(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t, natstest.MaxPayload(1024))
	pub := natsdriver.NewPublisher(dial(t, srv))
	err := pub.Publish(t.Context(), &driver.Message{Subject: "events", Body: make([]byte, 1025)})
	if !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("error %v: want ErrMaxPayload", err)
	}
}

func TestStatusWithoutBodyIsAFrameError(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	ctx, nc := deadline(t), dial(t, srv)
	sub := subscribe(t, nc, "events")
	must(t, nc.PublishMsg(&nats.Msg{Subject: "events", Header: nats.Header{"Status": {"503"}}}))
	must(t, nc.Publish("events", []byte("x")))
	var m driver.Message
	var frame *driver.FrameError
	if err := sub.Next(ctx, &m); !errors.As(err, &frame) {
		t.Errorf("error %v: want a FrameError", err)
	}
	must(t, sub.Next(ctx, &m))
}

func TestRefusedSubscriptionFails(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t, natstest.Denied("u", "p", "", "events"))
	nc := dial(t, srv, nats.UserInfo("u", "p"), nats.PermissionErrOnSubscribe(true))
	sub := subscribe(t, nc, "events")
	for range 2 {
		if err := sub.Ready(deadline(t)); !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `Subscription to "events"`) {
			t.Errorf("ready: error %v: want ErrPermissionViolation with the subject", err)
		}
	}
	var m driver.Message
	if err := sub.Next(deadline(t), &m); !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("error %v: want ErrPermissionViolation", err)
	}
}

// TestLongSubjectLeavesTheConnectionOpen covers subjects beyond the control line of
// the server, and one just within it.
func TestLongSubjectLeavesTheConnectionOpen(t *testing.T) {
	t.Parallel()
	nc, ctx := dial(t, natstest.Run(t)), deadline(t)
	pub := natsdriver.NewPublisher(nc)
	long, longest := strings.Repeat("x", 5000), strings.Repeat("x", 4032)
	if err := pub.Publish(ctx, &driver.Message{Subject: long}); err == nil || !strings.Contains(err.Error(), "want at most 4032") {
		t.Errorf("publish: %v, want an error with the limit", err)
	}
	if _, err := natsdriver.Subscribe(nc, long); err == nil {
		t.Error("subscribe: no error")
	}
	sub := subscribe(t, nc, longest)
	must(t, pub.Publish(ctx, &driver.Message{Subject: longest}))
	var m driver.Message
	must(t, sub.Next(ctx, &m))
}
