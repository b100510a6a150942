package drivertest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// probe begins the body of what is published only to see whether it arrives.
var probe = []byte("drivertest probe ")

// connected returns a publisher and a subscriber that hears it.
func connected(t *testing.T, h Harness) (driver.Publisher, driver.Subscriber) {
	t.Helper()
	pub, sub := h.NewPublisher(t), h.NewSubscriber(t, subject)
	connect(t, pub, sub, subject)
	return pub, sub
}

// connect publishes until sub hears it. Whatever else arrives meanwhile is
// thrown away.
func connect(t *testing.T, pub driver.Publisher, sub driver.Subscriber, subject string) {
	t.Helper()
	body := strconv.AppendUint(bytes.Clone(probe), rand.Uint64(), 10)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		publish(t, pub, &driver.Message{Subject: subject, Body: body})
		if heard(t, sub, body, 20*time.Millisecond) {
			return
		}
	}
	t.Fatalf("a subscriber of %q hears nothing", subject)
}

// heard tells whether a message with that body arrives in time.
func heard(t *testing.T, sub driver.Subscriber, body []byte, within time.Duration) bool {
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

// next returns the next message that is no probe.
func next(t *testing.T, sub driver.Subscriber) driver.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		var m driver.Message
		if err := sub.Next(ctx, &m); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(m.Body, probe) {
			return m
		}
	}
}
