package drivertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/waittest"
)

// probe is the prefix of the bodies that connect publishes.
var probe = []byte("drivertest probe ")

// connected returns a publisher and a subscriber that receives from it.
func connected(t *testing.T, h Harness) (driver.Publisher, driver.Subscriber) {
	t.Helper()
	pub, sub := h.NewPublisher(t), h.NewSubscriber(t, subject)
	connect(t, pub, sub, subject)
	return pub, sub
}

// connect publishes until sub receives it. Other messages that arrive meanwhile
// are discarded.
func connect(t *testing.T, pub driver.Publisher, sub driver.Subscriber, subject string) {
	t.Helper()
	body := append(bytes.Clone(probe), rand.Text()...)
	waittest.Eventually(t, "a subscriber of "+strconv.Quote(subject)+" receives a message", func() bool {
		publish(t, pub, &driver.Message{Subject: subject, Body: body})
		return received(t, sub, body, 20*time.Millisecond)
	})
}

// received reports whether a message with that body arrives in time.
func received(t *testing.T, sub driver.Subscriber, body []byte, within time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var m driver.Message
	for {
		err := sub.Next(ctx, &m)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return false
		case err != nil:
			t.Fatal(err)
		case bytes.Equal(m.Body, body):
			return true
		}
	}
}

func publish(t *testing.T, pub driver.Publisher, m *driver.Message) {
	t.Helper()
	if err := pub.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// next returns the next event that is not a probe.
func next(t *testing.T, sub driver.Subscriber) driver.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	for {
		var m driver.Message
		if err := sub.Next(ctx, &m); err != nil {
			t.Fatal(err)
		}
		if m.Kind == driver.Event && !bytes.HasPrefix(m.Body, probe) {
			return m
		}
	}
}
