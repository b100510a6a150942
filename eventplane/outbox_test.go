package eventplane

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
)

func TestOutboxSendsInOrder(t *testing.T) {
	for _, blocks := range []bool{true, false} {
		for _, history := range []int{0, -1} {
			testOutbox(t, blocks, PublisherOptions{History: history}, func(t *testing.T, f *fakePublisher, b *outbox) {
				publishAll(t, b, 1000, 100)
				synctest.Wait()
				expectFrom(t, f.sequences(driver.Event), 0, 1000)
				kept := uint64(1000)
				if history < 0 {
					kept = 0
				}
				if got := b.stats(); got.Published != 1000 || got.Sent != 1000 || got.Pending != 0 || got.Kept != kept {
					t.Errorf("stats %+v, want 1000 sent and %d kept", got, kept)
				}
			})
		}
	}
}

// While nothing can be sent, publishing goes on, and the newest events are sent
// afterwards. Only one call waits, until the sender has made no progress for
// stallTime.
func TestOutboxKeepsTheNewestWhileBlocked(t *testing.T) {
	for _, history := range []int{0, -1} {
		testOutbox(t, true, PublisherOptions{History: history}, func(t *testing.T, f *fakePublisher, b *outbox) {
			f.block()
			start := time.Now()
			const count, taken = DefaultHistory + 5000, 1
			publishAll(t, b, 1, 10)
			synctest.Wait()
			publishAll(t, b, count-1, 10)
			if took := time.Since(start); took > stallTime {
				t.Errorf("publishing took %v, want at most %v", took, stallTime)
			}
			want := PublisherStats{Published: count, Pending: DefaultHistory + taken, Lost: 5000 - taken}
			if got := b.stats(); got.Pending != want.Pending || got.Lost != want.Lost || got.Published != want.Published {
				t.Errorf("stats %+v, want %+v", got, want)
			}
			f.unblock()
			synctest.Wait()
			expectFrom(t, f.sequences(driver.Event)[taken:], 5000, DefaultHistory)
		})
	}
}

func (f *fakePublisher) unblock() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.open)
}

// A full outbox delays Publish no longer than its context allows, and an event that
// was given up uses no sequence.
func TestPublishReturnsWithItsContext(t *testing.T) {
	testOutbox(t, true, PublisherOptions{HistoryBytes: 10_000}, func(t *testing.T, f *fakePublisher, b *outbox) {
		f.block()
		publishAll(t, b, 9, 1000)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		start := time.Now()
		var err error
		for err == nil {
			err = b.publishBytes(ctx, 1000)
		}
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > 60*time.Millisecond {
			t.Errorf("error %v after %v, want that of the context after 50ms", err, took)
		}
		published := b.stats().Published
		f.unblock()
		synctest.Wait()
		expectFrom(t, f.sequences(driver.Event), 0, published)
	})
}

// A slow transport slows publishers down, and nothing is lost.
func TestSlowTransportLosesNothing(t *testing.T) {
	testOutbox(t, true, PublisherOptions{History: 100}, func(t *testing.T, f *fakePublisher, b *outbox) {
		f.delay = 5 * time.Millisecond
		publishAll(t, b, 2000, 100)
		rest(t, time.Minute)
		expectFrom(t, f.sequences(driver.Event), 0, 2000)
		if got := b.stats(); got.Lost != 0 || got.Kept != 100 {
			t.Errorf("stats %+v, want nothing lost and 100 kept", got)
		}
	})
}

func TestErrorsOfEventsAreReportedOnce(t *testing.T) {
	errRefused := errors.New("refused")
	testOutbox(t, true, PublisherOptions{}, func(t *testing.T, f *fakePublisher, b *outbox) {
		f.err = errRefused
		publishAll(t, b, 1, 10)
		synctest.Wait()
		f.err = nil
		if err := b.publishBytes(t.Context(), 10); !errors.Is(err, errRefused) {
			t.Errorf("error %v, want that of the event before", err)
		}
		if err := b.publishBytes(t.Context(), 2<<20); !errors.Is(err, errTooLarge) {
			t.Errorf("error %v, want too large", err)
		}
		publishAll(t, b, 1, 10)
		synctest.Wait()
		expectFrom(t, f.sequences(driver.Event), 1, 1)
		if got := b.stats(); got.Published != 2 || got.Failed != 1 || got.Refused != 2 || got.Sent != 1 {
			t.Errorf("stats %+v, want one failed, two refused, one sent", got)
		}
	})
}

// The rest is sent within the context of Shutdown; what remains is an error.
func TestOutboxDrains(t *testing.T) {
	testOutbox(t, true, PublisherOptions{}, func(t *testing.T, f *fakePublisher, b *outbox) {
		f.delay = 10 * time.Millisecond
		publishAll(t, b, 1000, 10)
		b.finish()
		if err := b.close(t.Context()); err != nil {
			t.Error(err)
		}
		expectFrom(t, f.sequences(driver.Event), 0, 1000)
		expectFrom(t, f.sequences(driver.Tick), 1000, 1)
		if err := b.publishBytes(t.Context(), 1); !errors.Is(err, ErrClosed) {
			t.Errorf("publish after the end: %v, want ErrClosed", err)
		}
	})
	for name, patience := range map[string]time.Duration{"bounded by the context": time.Second, "unbounded": time.Hour} {
		t.Run(name, func(t *testing.T) {
			testOutbox(t, true, PublisherOptions{}, func(t *testing.T, f *fakePublisher, b *outbox) {
				f.block()
				publishAll(t, b, 1000, 10)
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				start := time.Now()
				b.finish()
				err := b.close(ctx)
				if took := time.Since(start); err == nil || took > min(patience, drainStall)+time.Second {
					t.Errorf("closed after %v with %v, want an error", took, err)
				}
				if got := b.stats(); got.Lost != 1000 || got.Pending != 0 {
					t.Errorf("stats %+v, want 1000 lost", got)
				}
			})
		})
	}
}

func TestTicksOfAPublisherThatRests(t *testing.T) {
	for _, blocks := range []bool{true, false} {
		testOutbox(t, blocks, PublisherOptions{}, func(t *testing.T, f *fakePublisher, b *outbox) {
			rest(t, time.Minute)
			if n := len(f.sequences(driver.Tick)); n != 0 {
				t.Errorf("%d ticks before the first event, want none", n)
			}
			for range 100 { // it does not rest
				publishAll(t, b, 1, 10)
				rest(t, tickRest/2)
			}
			before := len(f.sequences(driver.Tick))
			if before > 1 {
				t.Errorf("%d ticks between events, want none", before)
			}
			rest(t, 2*tickRest)
			synctest.Wait()
			if got := f.sequences(driver.Tick); len(got) != before+1 || got[before] != 100 {
				t.Errorf("ticks %v, want one of 100 after %v", got, 2*tickRest)
			}
			rest(t, time.Minute)
			if n := len(f.sequences(driver.Tick)); n < 15 || n > 22 {
				t.Errorf("%d ticks in a minute, want about 7 + 10", n)
			}
			before = len(f.sequences(driver.Tick))
			publishAll(t, b, 1, 10)
			rest(t, 2*tickRest)
			synctest.Wait()
			if got := f.sequences(driver.Tick); len(got) != before+1 || got[before] != 101 {
				t.Errorf("ticks %v, want one more, of 101", got)
			}
			event, tick := f.sent[len(f.sent)-2], f.sent[len(f.sent)-1]
			if event.PublishedAt != uint64(time.Now().Add(-2*tickRest).UnixMilli()) && !blocks || tick.PublishedAt != b.lastAt {
				t.Errorf("event of %d, tick of %d: want that of the last event", event.PublishedAt, tick.PublishedAt)
			}
		})
	}
}

func TestSliceIsWhatWasSent(t *testing.T) {
	testOutbox(t, true, PublisherOptions{History: 100}, func(t *testing.T, f *fakePublisher, b *outbox) {
		if got := b.Slice(nil, 0, 1<<63, 10, 1<<20); len(got) != 0 {
			t.Errorf("%d events before the first, want none", len(got))
		}
		publishAll(t, b, 200, 100)
		synctest.Wait()
		got := b.Slice(nil, 0, 1<<63, 1000, 1<<20)
		if len(got) != 100 || b.stats().Replayed != 100 {
			t.Fatalf("%d events, %d counted, want 100", len(got), b.stats().Replayed)
		}
		for i, m := range got {
			if live := f.sent[100+i]; m.Sequence != live.Sequence || m.PublisherID != 7 || m.Subject != "s" || string(m.Body) != string(live.Body) {
				t.Fatalf("event %+v differs from the one that was sent, %+v", m, live)
			}
		}
		f.block()
		publishAll(t, b, 10, 10)
		synctest.Wait()
		if got := b.Slice(nil, 209, 1<<63, 1000, 1<<20); len(got) != 0 && b.stats().Pending == 0 {
			t.Errorf("%d events that have not been sent, want none", len(got))
		}
		f.unblock()
	})
}

func TestCloseReportsEventsThatWereRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakePublisher()
		b := newOutbox(7, &pubConn{Publisher: f, blocks: true, subject: "s"}, &historyBudget{max: 1 << 30}, Config{HistoryBytes: 1 << 30}, PublisherOptions{})
		f.block()
		for range 2 {
			if err := b.publishBytes(t.Context(), 10); err != nil {
				t.Fatal(err)
			}
		}
		b.finish()
		f.mu.Lock()
		f.err = errors.New("refused")
		close(f.open)
		f.mu.Unlock()
		if err := b.close(t.Context()); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("close of an outbox whose events were refused: got %v, want the refusal", err)
		}
	})
}
