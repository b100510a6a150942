// Package drivertest is the conformance suite of transports. Every package that
// implements package driver runs it on real sockets or servers:
//
//	func TestConformance(t *testing.T) {
//		drivertest.Run(t, func(t *testing.T) drivertest.Harness { ... })
//	}
package drivertest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/waittest"
)

// Harness opens the publishers and subscribers of one test. They must be
// connected to each other, in whatever order they are opened, and closed when
// the test ends; the test may have closed them before.
type Harness struct {
	NewPublisher  func(t *testing.T) driver.Publisher
	NewSubscriber func(t *testing.T, subject string) driver.Subscriber
}

const subject = "kv-events"

// Run tests a driver. The tests run in parallel. Run calls open once for each of
// them; their harnesses must not be connected to each other.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, h Harness)
	}{
		{"messages arrive in order", testOrder},
		{"bodies of any size arrive intact", testBodies},
		{"a longer or shorter subject is not received", testSubjects},
		{"several subscribers receive the same", testFanOut},
		{"many publishers are received", testFanIn},
		{"ticks follow the events before them", testTicks},
		{"a cancelled Next loses nothing", testCancel},
		{"messages not received in time are counted", testDropped},
		{"Close wakes Next", testCloseWakes},
		{"Close is idempotent", testCloseTwice},
		{"nothing works after Close", testUseAfterClose},
		{"a subscriber outlives its publishers", testPublisherGone},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open(t))
		})
	}
}

func testOrder(t *testing.T, h Harness) {
	pub, sub := connected(t, h)
	body := make([]byte, 8)
	const n = 10_000
	for i := range uint64(n) {
		binary.BigEndian.PutUint64(body, i) // Publish does not retain it
		publish(t, pub, &driver.Message{Subject: subject, PublisherID: 7, Sequence: i, Body: body})
	}
	var kept [][]byte
	for i := range uint64(n) {
		m := next(t, sub)
		if m.Subject != subject || m.HasIdentity && (m.PublisherID != 7 || m.Sequence != i) {
			t.Fatalf("message %d: got subject %q, publisher %d, sequence %d", i, m.Subject, m.PublisherID, m.Sequence)
		}
		kept = append(kept, m.Body)
	}
	for i, b := range kept { // they are not written to again
		if len(b) != 8 || binary.BigEndian.Uint64(b) != uint64(i) {
			t.Fatalf("message %d: got body %x", i, b)
		}
	}
}

func testBodies(t *testing.T, h Harness) {
	pub, sub := connected(t, h)
	for _, size := range []int{0, 1, 4, 5, 6, 255, 256, 8191, 64 << 10, 1<<20 - 1, 1 << 20} {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(i*7 + i>>8 + size)
		}
		publish(t, pub, &driver.Message{Subject: subject, Body: body})
		if m := next(t, sub); !bytes.Equal(m.Body, body) {
			t.Errorf("body of %d bytes: got %d bytes that differ", size, len(m.Body))
		}
	}
}

func testSubjects(t *testing.T, h Harness) {
	pub, sub := connected(t, h)
	longer := h.NewSubscriber(t, subject+"2")
	connect(t, pub, longer, subject+"2")
	for range 100 {
		publish(t, pub, &driver.Message{Subject: subject + "2", Body: []byte("longer")})
		publish(t, pub, &driver.Message{Subject: subject[:2], Body: []byte("shorter")})
	}
	publish(t, pub, &driver.Message{Subject: subject, Body: []byte("equal")})
	if m := next(t, sub); string(m.Body) != "equal" {
		t.Errorf("the subscriber of %q received %q", subject, m.Body)
	}
	if m := next(t, longer); string(m.Body) != "longer" {
		t.Errorf("the subscriber of %q received %q", subject+"2", m.Body)
	}
}

func testFanOut(t *testing.T, h Harness) {
	pub, first := connected(t, h)
	second := h.NewSubscriber(t, subject)
	connect(t, pub, second, subject)
	publish(t, pub, &driver.Message{Subject: subject, Body: []byte("event")})
	for _, sub := range []driver.Subscriber{first, second} {
		if m := next(t, sub); string(m.Body) != "event" {
			t.Errorf("got %q, want event", m.Body)
		}
	}
}

func testFanIn(t *testing.T, h Harness) {
	const publishers, each = 20, 100
	sub := h.NewSubscriber(t, subject)
	pubs := make([]driver.Publisher, publishers)
	for i := range pubs {
		pubs[i] = h.NewPublisher(t)
		connect(t, pubs[i], sub, subject)
	}
	var sending sync.WaitGroup
	for i, pub := range pubs {
		sending.Go(func() {
			for j := range each {
				err := pub.Publish(t.Context(), &driver.Message{Subject: subject, Body: []byte{byte(i), byte(j)}})
				if err != nil {
					t.Errorf("publisher %d: %v", i, err)
				}
			}
		})
	}
	defer sending.Wait()
	var received [publishers]byte
	for range publishers * each {
		m := next(t, sub)
		if i := m.Body[0]; received[i] != m.Body[1] {
			t.Fatalf("publisher %d: got message %d, want %d", i, m.Body[1], received[i])
		}
		received[m.Body[0]]++
	}
}

// testTicks publishes a tick after some events, again and again. Control messages
// may get lost, but must not overtake events.
func testTicks(t *testing.T, h Harness) {
	pub, sub := connected(t, h)
	const rounds, n = 200, 20
	for round := range uint64(rounds) {
		for i := range uint64(n) {
			publish(t, pub, &driver.Message{Subject: subject, PublisherID: 7, Sequence: round*n + i, Body: binary.BigEndian.AppendUint64(nil, round*n+i)})
		}
		publish(t, pub, &driver.Message{Kind: driver.Tick, Subject: subject, PublisherID: 7, Sequence: (round + 1) * n, PublishedAt: 1000 + round})
	}
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	var events, ticks uint64
	for last := uint64(0); last < rounds*n; {
		var m driver.Message
		if err := sub.Next(ctx, &m); err != nil {
			t.Fatalf("after %d events and %d ticks: %v", events, ticks, err)
		}
		switch {
		case m.Kind == driver.Tick:
			if m.Subject != subject || m.PublisherID != 7 || m.PublishedAt != 999+m.Sequence/n || m.Sequence > events || len(m.Body) > 0 {
				t.Fatalf("after %d events: got tick %+v", events, m)
			}
			ticks++
			last = m.Sequence
		case m.Kind == driver.Event && !bytes.HasPrefix(m.Body, probe):
			events++
		}
	}
	if events != rounds*n || ticks == 0 {
		t.Errorf("%d events and %d ticks: want %d and %d at most", events, ticks, rounds*n, rounds)
	}
}

func testCancel(t *testing.T, h Harness) {
	pub, sub := connected(t, h)
	done, cancel := context.WithCancel(t.Context())
	cancel()
	const n = 2000
	for i := range uint64(n) {
		publish(t, pub, &driver.Message{Subject: subject, Body: binary.BigEndian.AppendUint64(nil, i)})
	}
	var m driver.Message
	for i := uint64(0); i < n; {
		if err := sub.Next(done, &m); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("with a cancelled context: %v", err)
		} else if err != nil {
			short, stop := context.WithTimeout(t.Context(), 100*time.Microsecond)
			err = sub.Next(short, &m)
			stop()
			if errors.Is(err, context.DeadlineExceeded) {
				continue
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if m.Kind != driver.Event || bytes.HasPrefix(m.Body, probe) {
			continue
		}
		if got := binary.BigEndian.Uint64(m.Body); got != i {
			t.Fatalf("got message %d, want %d", got, i)
		}
		i++
	}
}

func testDropped(t *testing.T, h Harness) {
	pub, sub := connected(t, h)
	if n := sub.Dropped(); n != 0 {
		t.Fatalf("%d dropped before any message was published", n)
	}
	body := make([]byte, 64<<10)
	for end := time.Now().Add(waittest.Patience); sub.Dropped() == 0; {
		if time.Now().After(end) {
			t.Fatal("no message was dropped, although none was received")
		}
		publish(t, pub, &driver.Message{Subject: subject, Body: body})
	}
	connect(t, pub, sub, subject) // the stream continues
}

func testCloseWakes(t *testing.T, h Harness) {
	_, sub := connected(t, h)
	woken := make(chan error, 1)
	go func() {
		var m driver.Message
		for {
			if err := sub.Next(context.Background(), &m); err != nil {
				woken <- err
				return
			}
		}
	}()
	if err := sub.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-woken:
		if !errors.Is(err, driver.ErrClosed) {
			t.Errorf("Next: %v, want ErrClosed", err)
		}
	case <-time.After(waittest.Patience):
		t.Error("Next still blocks")
	}
}

func testCloseTwice(t *testing.T, h Harness) {
	pub, sub := connected(t, h)
	var closing sync.WaitGroup
	for range 4 {
		closing.Go(func() {
			if err := sub.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	closing.Wait()
	for range 2 {
		if err := pub.Close(); err != nil {
			t.Error(err)
		}
	}
}

func testUseAfterClose(t *testing.T, h Harness) {
	pub, sub := connected(t, h)
	publish(t, pub, &driver.Message{Subject: subject, Body: []byte("too late")})
	if err := errors.Join(pub.Close(), sub.Close()); err != nil {
		t.Fatal(err)
	}
	var m driver.Message
	errs := map[string]error{
		"Publish": pub.Publish(t.Context(), &driver.Message{Subject: subject}),
		"Next":    sub.Next(t.Context(), &m),
	}
	if c, ok := sub.(driver.Connector); ok {
		errs["Connect"] = c.Connect("tcp://127.0.0.1:1")
		errs["Disconnect"] = c.Disconnect("tcp://127.0.0.1:1")
	}
	for name, err := range errs {
		if !errors.Is(err, driver.ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", name, err)
		}
	}
}

func testPublisherGone(t *testing.T, h Harness) {
	pub, sub := connected(t, h)
	publish(t, pub, &driver.Message{Subject: subject, Body: []byte("last words")})
	if err := pub.Close(); err != nil {
		t.Fatal(err)
	}
	if m := next(t, sub); string(m.Body) != "last words" {
		t.Errorf("got %q, want what was published before Close", m.Body)
	}
	connect(t, h.NewPublisher(t), sub, subject)
}
