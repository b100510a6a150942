package eventplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/wait"
)

// replayingReceiver is a driver in memory whose publishers keep all that was sent,
// from a sequence on.
type replayingReceiver struct {
	*memoryReceiver
	delay time.Duration // of an answer
	fail  func(r driver.ReplayRequest) error
	slow  time.Duration // of each event of publishers below 100

	mu       sync.Mutex
	keeps    uint64 // first sequence
	sent     uint64 // next sequence
	requests []driver.ReplayRequest
	active   int
	most     int // of active
}

func (r *replayingReceiver) Replay(ctx context.Context, req driver.ReplayRequest, deliver func(*driver.Message)) error {
	r.mu.Lock()
	r.requests = append(r.requests, req)
	r.active++
	r.most = max(r.most, r.active)
	first, end := max(req.First, r.keeps), min(req.Last+1, r.sent)
	if req.Last+1 == 0 {
		end = r.sent
	}
	r.mu.Unlock()
	defer func() { r.mu.Lock(); r.active--; r.mu.Unlock() }()
	if err := wait.Sleep(ctx, r.delay); err != nil {
		return err
	}
	if r.fail != nil {
		if err := r.fail(req); err != nil {
			return err
		}
	}
	for seq := first; seq < end && seq < first+driver.MaxReplay; seq++ {
		if req.PublisherID < 100 && r.slow > 0 {
			if err := wait.Sleep(ctx, r.slow); err != nil {
				return err
			}
		}
		deliver(&driver.Message{Body: body(req.PublisherID, seq)})
	}
	return ctx.Err()
}

func body(publisher, seq uint64) []byte {
	env := codec.Envelope{PublisherID: publisher, Sequence: seq, PublishedAt: 1000 + seq, Topic: "t", Payload: []byte{7}}
	body, _ := env.Append(nil, codec.Msgpack) // fails for no envelope like this
	return body
}

// newRecoveryTest returns a subscriber that recovers, of publishers that have sent the
// given number of events.
func newRecoveryTest(t *testing.T, o SubscriberOptions, sent uint64) (*replayingReceiver, *Subscriber) {
	t.Helper()
	r := &replayingReceiver{
		memoryReceiver: &memoryReceiver{messages: make(chan driver.Message, 100_000), closed: make(chan struct{})},
		delay:          time.Millisecond, sent: sent,
	}
	o.Recover = true
	s := openSubscriber(&Client{config: Config{Codec: codec.Msgpack}}, "t", &subConn{Subscriber: r, subject: "s"}, o)
	t.Cleanup(func() { _ = s.Shutdown(context.Background()) })
	return r, s
}

func (r *replayingReceiver) events(publisher uint64, sequences ...uint64) {
	for _, seq := range sequences {
		r.messages <- driver.Message{PublisherID: publisher, Sequence: seq, HasIdentity: true, Body: body(publisher, seq)}
	}
}

func (r *replayingReceiver) control(kind driver.Kind, next uint64) {
	r.messages <- driver.Message{Kind: kind, PublisherID: 1, Sequence: next, HasIdentity: true, PublishedAt: 999 + next}
}

// read formats what Next returns until nothing has come for a minute.
func read(t *testing.T, s *Subscriber) (out []string) {
	t.Helper()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		ev, err := s.Next(ctx)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return out
		case err != nil:
			t.Fatal(err)
		case ev.Gap == nil && ev.Missed == 0:
			out = append(out, fmt.Sprint(ev.Sequence))
		case ev.Gap == nil:
			out = append(out, fmt.Sprintf("%d(%d)", ev.Sequence, ev.Missed))
		case ev.Gap.Recovered:
			out = append(out, fmt.Sprintf("recovered %d-%d", ev.Gap.First, ev.Gap.Last))
		default:
			out = append(out, fmt.Sprintf("lost %d-%d", ev.Gap.First, ev.Gap.Last))
		}
	}
}

func TestRecover(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fromStart   bool
		keeps, sent uint64
		fail        func(driver.ReplayRequest) error
		arrive      func(*replayingReceiver)
		want        []string
	}{
		"a gap": {
			sent: 5, arrive: func(r *replayingReceiver) { r.events(1, 0, 1, 4) },
			want: []string{"0", "1", "2", "3", "recovered 2-3", "4"},
		},
		"a part is no longer kept": {
			keeps: 3, sent: 5, arrive: func(r *replayingReceiver) { r.events(1, 0, 1, 4) },
			want: []string{"0", "1", "lost 2-2", "3(1)", "recovered 3-3", "4"},
		},
		"no replay": {
			sent: 5, arrive: func(r *replayingReceiver) { r.events(1, 0, 1, 4) },
			fail: func(driver.ReplayRequest) error { return driver.ErrNoReplay },
			want: []string{"0", "1", "lost 2-3", "4(2)"},
		},
		"the publisher does not answer": {
			sent: 5, arrive: func(r *replayingReceiver) { r.events(1, 0, 1, 4) },
			fail: func(driver.ReplayRequest) error { return errors.New("unreachable") },
			want: []string{"0", "1", "lost 2-3", "4(2)"},
		},
		"the tail, by a tick": {
			sent: 4, arrive: func(r *replayingReceiver) { r.events(1, 0, 1); r.control(driver.Tick, 4) },
			want: []string{"0", "1", "2", "3", "recovered 2-3"},
		},
		"a lost tail": {
			keeps: 9, sent: 4, arrive: func(r *replayingReceiver) {
				r.events(1, 0, 1)
				r.control(driver.Tick, 4)
				r.events(1, 4)
			},
			want: []string{"0", "1", "lost 2-3", "4(2)"},
		},
		"the first events after Ready": {
			sent: 9, arrive: func(r *replayingReceiver) { r.control(driver.Ready, 5); r.events(1, 7, 8) },
			want: []string{"5", "6", "recovered 5-6", "7", "8"},
		},
		"from the start": {
			fromStart: true, keeps: 2, sent: 6, arrive: func(r *replayingReceiver) { r.events(1, 5, 6) },
			want: []string{"2", "3", "4", "5", "6"},
		},
		"from the start, by a tick": {
			fromStart: true, sent: 3, arrive: func(r *replayingReceiver) { r.control(driver.Ready, 3) },
			want: []string{"0", "1", "2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r, s := newRecoveryTest(t, SubscriberOptions{Gaps: true, FromStart: tc.fromStart}, tc.sent)
				r.keeps, r.fail = tc.keeps, tc.fail
				tc.arrive(r)
				if got := read(t, s); !slices.Equal(got, tc.want) {
					t.Errorf("got %q: want %q", got, tc.want)
				}
			})
		})
	}
}

// While a gap of one publisher is open, the events of another are delivered.
func TestRecoveryDelaysNoOtherPublisher(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, s := newRecoveryTest(t, SubscriberOptions{}, 3)
		r.delay = time.Hour
		r.events(1, 0, 2)
		r.events(2, 0, 1, 2)
		start, got := time.Now(), []uint64{}
		for range 4 {
			ev, err := s.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, ev.PublisherID)
		}
		if want := []uint64{1, 2, 2, 2}; !slices.Equal(got, want) || time.Since(start) > 0 {
			t.Errorf("publishers %v after %v: want %v at once", got, time.Since(start), want)
		}
		// Five attempts of a second, with pauses.
		ev, err := s.Next(t.Context())
		if took := time.Since(start); err != nil || ev.Missed != 1 || took < 5*replayTimeout || took > 15*replayTimeout {
			t.Errorf("event %+v, %v after %v: want it with the one missed", ev, err, took)
		}
	})
}

// More arrives during a recovery than is held. It is discarded, and recovered
// afterwards.
func TestWhatIsDiscardedIsRecovered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const last = 20_000
		r, s := newRecoveryTest(t, SubscriberOptions{}, last+1)
		for seq := range uint64(last + 1) {
			if seq < 10 || seq > 20 {
				r.events(1, seq)
			}
		}
		for want := range uint64(last + 1) {
			ev, err := s.Next(t.Context())
			if err != nil || ev.Sequence != want || ev.Missed != 0 {
				t.Fatalf("event %+v, %v: want %d", ev, err, want)
			}
			if s.sequencer.held.events > maxHeldEventsOf+maxSlicesOf*driver.MaxReplay {
				t.Fatalf("%d events are held", s.sequencer.held.events)
			}
		}
		if st := s.Stats(); st.Recovered == 0 || st.Missed != 0 || len(r.requests) > 1+(last+driver.MaxReplay)/driver.MaxReplay {
			t.Errorf("stats %+v, %d requests", st, len(r.requests))
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.most != maxSlicesOf {
			t.Errorf("%d requests at a time: want %d", r.most, maxSlicesOf)
		}
	})
}

// Publishers with gaps at the same time share the requests that are in progress.
func TestReplaysInProgressAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const publishers = 2 * maxSlices
		r, s := newRecoveryTest(t, SubscriberOptions{}, 3)
		for id := range uint64(publishers) {
			r.events(id, 0, 2)
		}
		if got := len(read(t, s)); got != 3*publishers || r.most != maxReplays {
			t.Errorf("%d events, %d requests at a time: want %d and %d", got, r.most, 3*publishers, maxReplays)
		}
	})
}

// A reader that is slower than the publisher does not recover for ever.
func TestASlowReaderGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, s := newRecoveryTest(t, SubscriberOptions{}, 1)
		r.events(1, 0)
		go func() {
			for seq := uint64(2); seq < 150_000 && t.Context().Err() == nil; seq++ {
				r.mu.Lock()
				r.sent = seq + 1
				r.keeps = max(seq, 20_000) - 20_000
				r.mu.Unlock()
				select {
				case m := <-r.messages: // the queue drops the oldest
					if len(r.messages) < 10_000 {
						r.messages <- m
					}
				default:
				}
				r.events(1, seq)
				_ = wait.Sleep(t.Context(), 10*time.Microsecond)
			}
		}()
		missed, position := uint64(0), uint64(0)
		for position < 60_000 {
			ev, err := s.Next(t.Context())
			if err != nil || ev.Sequence != position+ev.Missed {
				t.Fatalf("event %+v, %v: want %d", ev, err, position)
			}
			position, missed = ev.Sequence+1, missed+ev.Missed
			_ = wait.Sleep(t.Context(), 30*time.Microsecond)
		}
		st := s.Stats()
		if missed == 0 || st.Missed < missed || st.Recovered > position/2 {
			t.Errorf("missed %d, stats %+v: want most events live", missed, st)
		}
	})
}

func TestControlBodyHasItsTime(t *testing.T) {
	t.Parallel()
	for _, c := range []codec.Codec{codec.Msgpack, codec.JSON} {
		body := controlBody(c)(nil, 7, 3, 1000)
		if at, err := controlTime(body); at != 1000 || err != nil || len(body) > 256 {
			t.Errorf("%v: %d, %v in %d bytes: want 1000", c, at, err, len(body))
		}
		if _, err := controlTime(body[:len(body)-1]); err == nil {
			t.Errorf("%v: no error for a body that is cut off", c)
		}
	}
}

func TestProof(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, s := newRecoveryTest(t, SubscriberOptions{}, 2)
		_ = wait.Sleep(t.Context(), time.Second)
		r.events(1, 0, 1)
		read(t, s)
		r.control(driver.Tick, 2)
		read(t, s)
		if proof := s.Stats().LastProof[1]; proof != time.Minute {
			t.Errorf("last proof %v ago: want %v", proof, time.Minute)
		}
	})
}
