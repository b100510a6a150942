package natsconn_test

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/natsconn"
)

func TestReconnect(t *testing.T) {
	t.Parallel()
	var log logtest.Buffer
	srv := natstest.Run(t)
	nc := mustConnect(t, natsconn.Config{URL: srv.URL(), Name: "worker", Logger: log.Logger()})

	for outage := 1; outage <= 2; outage++ {
		srv.Stop()
		waittest.Eventually(t, "disconnected", func() bool { return nc.Status() == nats.RECONNECTING })
		if err := nc.Publish("s", nil); !errors.Is(err, nats.ErrReconnectBufExceeded) {
			t.Errorf("publish while disconnected: %v, want %v", err, nats.ErrReconnectBufExceeded)
		}
		srv.Start()
		waittest.Eventually(t, "reconnected, and logged", func() bool { return nc.IsConnected() && log.Count("natsconn: reconnected") == outage })
		if lost := log.Count("connection lost"); lost != outage {
			t.Errorf("%d lines about %d lost connections:\n%s", lost, outage, &log)
		}
	}
}

// The connection survives rejections, and logs one line for all of them.
func TestReconnectAfterRejections(t *testing.T) {
	t.Parallel()
	var log logtest.Buffer
	srv := natstest.Run(t, natstest.Token("right"))
	nc := mustConnect(t, natsconn.Config{URL: srv.URL(), Token: "right", Logger: log.Logger()})

	srv.Stop()
	srv.Start(natstest.Token("changed"))
	before := nc.Stats().Reconnects
	waittest.Eventually(t, "five rejections", func() bool { return nc.Stats().Reconnects >= before+5 })
	waittest.Eventually(t, "a line is logged", func() bool { return log.Count("authorization violation") > 0 })
	if n := log.Count("authorization violation"); n != 1 {
		t.Errorf("%d lines about five rejections, want 1:\n%s", n, &log)
	}

	srv.Stop()
	srv.Start(natstest.Token("right"))
	waittest.Eventually(t, "reconnected", nc.IsConnected)
}

func TestAsyncErrorsAreLogged(t *testing.T) {
	t.Parallel()
	var log logtest.Buffer
	srv := natstest.Run(t, natstest.Denied("u", "p", "secret", ""))
	nc := mustConnect(t, natsconn.Config{URL: srv.URL(), Username: "u", Password: "p", Logger: log.Logger()})

	sub, err := nc.SubscribeSync("flood")
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(1, -1); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := nc.Publish("flood", nil); err != nil {
			t.Fatal(err)
		}
		if err := nc.Publish("secret", nil); err != nil {
			t.Fatal(err)
		}
	}
	waittest.Eventually(t, "a slow consumer", func() bool { return log.Count("slow consumer") > 0 })
	waittest.Eventually(t, "a rejected publish", func() bool { return log.Count("secret") > 0 })
	if err := nc.FlushTimeout(waittest.Patience); err != nil {
		t.Fatal(err)
	}
	if n := log.Count("slow consumer"); n != 1 || log.Count("subject=flood") != 1 {
		t.Errorf("%d lines about one slow consumer:\n%s", n, &log)
	}
}

// Options of the caller override those of Connect.
func TestOptionsOverride(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	nc := mustConnect(t, natsconn.Config{URL: srv.URL(), Name: "a"}, nats.Name("b"), nats.NoReconnect())
	if nc.Opts.Name != "b" || nc.Opts.AllowReconnect {
		t.Errorf("name %q, reconnect %v: want those of the caller", nc.Opts.Name, nc.Opts.AllowReconnect)
	}
	srv.Stop()
	waittest.Eventually(t, "closed", nc.IsClosed)
}
