package nats_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/eventplane/drivertest"
	natsdriver "github.com/dynplane/dynplane/eventplane/nats"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// denied returns a connection of a user that may not publish or subscribe to the
// subjects.
func denied(t *testing.T, publish, subscribe string) (*natstest.Server, *nats.Conn) {
	t.Helper()
	srv := natstest.Run(t, natstest.Denied("u", "p", publish, subscribe), natstest.Denied("all", "p", "", ""))
	return srv, dial(t, srv, nats.UserInfo("u", "p"), nats.PermissionErrOnSubscribe(true))
}

// serve returns a request to a publisher of a user without restrictions.
func serve(t *testing.T, srv *natstest.Server, history driver.History) driver.ReplayRequest {
	t.Helper()
	nc := dial(t, srv, nats.UserInfo("all", "p"))
	pub := natsdriver.NewPublisher(nc)
	r := drivertest.Serve(t, pub, history)
	flush(t, nc)
	t.Cleanup(func() { must(t, pub.Close()) })
	return r
}

func replay(ctx context.Context, sub driver.Replayer, r driver.ReplayRequest) (int, error) {
	return drivertest.Replay(ctx, sub, r, func(*driver.Message) {})
}

// TestReplayRecords has the bytes of docs/protocol.md, and malformed requests, which
// get no answer and one line in the log.
func TestReplayRecords(t *testing.T) {
	t.Parallel()
	var log logtest.Buffer
	srv := natstest.Run(t)
	nc := dial(t, srv)
	pub := natsdriver.NewPublisherWith(nc, natsdriver.Options{Logger: log.Logger()})
	defer func() { must(t, pub.Close()) }()
	r := drivertest.Serve(t, pub, drivertest.NewHistory(100, 2, 8))
	subject := "dynplane.replay.9007199254740991"
	inbox, err := nc.SubscribeSync("inbox")
	must(t, err)
	for _, request := range []string{"", "x", strings.Repeat("x", 17), "\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"} {
		must(t, nc.PublishRequest(subject, "inbox", []byte(request)))
	}
	must(t, nc.Publish(subject, make([]byte, 16))) // without a reply subject
	request := binary.BigEndian.AppendUint64(make([]byte, 8), math.MaxUint64)
	must(t, nc.PublishRequest(subject, "inbox", request))

	u64 := binary.BigEndian.AppendUint64
	var want []byte
	for _, sequence := range []uint64{100, 101} {
		want = u64(append(u64(u64(want, r.PublisherID), sequence), 1, 0, 0, 0, 8), sequence)
	}
	want = append(u64(u64(want, r.PublisherID), math.MaxUint64), 1, 0, 0, 0, 24)
	want = u64(u64(u64(want, 0), math.MaxUint64), 2)
	var got []byte
	for len(got) < len(want) {
		msg, err := inbox.NextMsgWithContext(deadline(t))
		must(t, err)
		got = append(got, msg.Data...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("answer\n%x: want\n%x", got, want)
	}
	if n := log.Count("level=WARN"); n != 1 {
		t.Errorf("%d warnings: want 1:\n%s", n, log.String())
	}
}

func TestReplayWithoutPermission(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ publish, subscribe string }{
		`Publish to "dynplane.replay.9007199254740991"`: {publish: "dynplane.replay.>"},
		`Subscription to "_INBOX.`:                      {subscribe: "_INBOX.>"},
	} {
		srv, nc := denied(t, tc.publish, tc.subscribe)
		sub := subscribe(t, nc, "events")
		err := sub.Replay(deadline(t), serve(t, srv, drivertest.NewHistory(0, 10, 8)), func(*driver.Message) {})
		if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v: want ErrPermissionViolation of %s", err, name)
		}
	}
}

// TestReplayOfAPublisherWithoutPermission covers a server that does not let the
// publisher receive requests: the subscriber does not wait for an answer.
func TestReplayOfAPublisherWithoutPermission(t *testing.T) {
	t.Parallel()
	srv, nc := denied(t, "", "dynplane.replay.>")
	var log logtest.Buffer
	pub := natsdriver.NewPublisherWith(nc, natsdriver.Options{Logger: log.Logger()})
	r := drivertest.Serve(t, pub, drivertest.NewHistory(0, 10, 8))
	waittest.Eventually(t, "the refusal is logged", func() bool { return log.Count("not permitted") == 1 })
	sub := subscribe(t, dial(t, srv, nats.UserInfo("all", "p")), "events")
	if _, err := replay(deadline(t), sub, r); !errors.Is(err, driver.ErrNoReplay) {
		t.Errorf("error %v: want ErrNoReplay", err)
	}
	must(t, pub.Publish(t.Context(), &driver.Message{Subject: "events"}))
	must(t, pub.Close())
}

// TestReplayAcrossAReconnect stops the server while it replays.
func TestReplayAcrossAReconnect(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	opts := []nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond)}
	pub := natsdriver.NewPublisher(dial(t, srv, opts...))
	const n = 20_000
	r := drivertest.Serve(t, pub, drivertest.NewHistory(0, n, 100))
	sub := subscribe(t, dial(t, srv, opts...), "events")
	var got uint64
	for end := time.Now().Add(waittest.Patience); got < n && time.Now().Before(end); {
		r.First = got
		// Without a server, and until the publisher is back, it fails.
		_ = sub.Replay(t.Context(), r, func(m *driver.Message) {
			if m.Sequence != got {
				t.Errorf("sequence %d: want %d", m.Sequence, got)
			}
			if got++; got == n/2 {
				srv.Stop()
				srv.Start()
			}
		})
	}
	if got != n {
		t.Errorf("%d events: want %d", got, n)
	}
	must(t, pub.Close())
}

func TestRefusedEventFailsTheNextPublish(t *testing.T) {
	t.Parallel()
	_, nc := denied(t, "events", "")
	pub, ctx := natsdriver.NewPublisher(nc), deadline(t)
	other := natsdriver.NewPublisher(nc)
	must(t, pub.Publish(ctx, &driver.Message{Subject: "events"}))
	for range 3 {
		must(t, pub.Ready(ctx))
		err := pub.Publish(ctx, &driver.Message{Subject: "events"})
		if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `"events"`) {
			t.Errorf("error %v: want ErrPermissionViolation with the subject", err)
		}
	}
	must(t, other.Publish(ctx, &driver.Message{Subject: "others"}))
}

// TestTicksWithoutPermission checks that events arrive all the same, and that each
// side logs it once.
func TestTicksWithoutPermission(t *testing.T) {
	t.Parallel()
	srv, nc := denied(t, "dynplane.tick.>", "dynplane.tick.>")
	var published, subscribed logtest.Buffer
	sub, err := natsdriver.SubscribeWith(nc, "events", natsdriver.Options{Logger: subscribed.Logger()})
	must(t, err)
	ctx := deadline(t)
	must(t, sub.Ready(ctx))
	waittest.Eventually(t, "the subscriber logs it", func() bool { return subscribed.Count("not permitted") == 1 })
	pub := natsdriver.NewPublisherWith(nc, natsdriver.Options{Logger: published.Logger()})
	for i := range uint64(5) {
		must(t, pub.Publish(ctx, &driver.Message{Subject: "events", Sequence: i}))
		must(t, pub.Publish(ctx, &driver.Message{Kind: driver.Tick, Subject: "events", Sequence: i + 1}))
		must(t, pub.Ready(ctx))
		var m driver.Message
		must(t, sub.Next(ctx, &m))
	}
	if n := published.Count("not permitted"); n != 1 {
		t.Errorf("the publisher has logged it %d times: want 1", n)
	}
	before := srv.InMsgs()
	must(t, pub.Publish(ctx, &driver.Message{Kind: driver.Tick, Subject: "events", Sequence: 5}))
	must(t, pub.Ready(ctx))
	if after := srv.InMsgs(); after != before {
		t.Errorf("%d messages were sent: want no ticks any more", after-before)
	}
	must(t, sub.Close())
}

// TestForeignSubscribersReceiveNoTicks covers those of the subject and of all events.
func TestForeignSubscribersReceiveNoTicks(t *testing.T) {
	t.Parallel()
	nc, ctx := dial(t, natstest.Run(t)), deadline(t)
	all, err := nc.SubscribeSync("namespace.>")
	must(t, err)
	pub := natsdriver.NewPublisher(nc)
	must(t, pub.Publish(ctx, &driver.Message{Kind: driver.Tick, Subject: "namespace.a.events", Sequence: 1}))
	must(t, pub.Publish(ctx, &driver.Message{Subject: "namespace.a.events", Body: []byte("event")}))
	msg, err := all.NextMsgWithContext(ctx)
	must(t, err)
	if string(msg.Data) != "event" {
		t.Errorf("received %q on %q: want the event only", msg.Data, msg.Subject)
	}
}
