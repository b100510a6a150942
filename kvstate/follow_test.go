package kvstate

import (
	"errors"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/kvevents"
)

func TestFollowBeginsWithTheWholeState(t *testing.T) {
	runScript(t, FollowOptions{}, func(s *script) {
		s.lose(store(1, 2), store(3))
		s.register(s.source(t, true))
		s.members <- discovery.Event{Type: discovery.Synced}
		q := s.query()
		if q.Start.Present || q.End.Present || !q.DumpFailed || q.Worker != 7 || q.Rank != 0 {
			t.Errorf("first query %+v", q.StateQuery)
		}
		s.wantKinds("recovering", "synced")
		s.reply(q)
		s.wantKinds("reset", "live")
		s.wantBlocks(1, 2, 3)
		s.publish(store(4), kvevents.Event{Kind: kvevents.Removed, Hashes: []uint64{1}})
		s.wantKinds("change", "change")
		s.wantBlocks(2, 3, 4)
		s.events <- s.record(store(5))
		s.last-- // the same id again
		s.publish(store(6))
		s.wantKinds("change")
		s.unregister(s.source(t, true))
		s.wantKinds("gone")
		s.publish(store(7))
		s.wantKinds()
		s.wantNoQuery()
	})
}

func TestEventsDuringAQueryAreHeld(t *testing.T) {
	runScript(t, FollowOptions{}, func(s *script) {
		s.register(s.source(t, true))
		s.lose(store(1))
		q := s.query()
		s.publish(store(2))
		ans := s.answer(q.StateQuery)
		s.publish(store(3), store(4))
		if s.budget.used == 0 {
			t.Error("nothing is held")
		}
		q.reply <- ans
		s.wantKinds("recovering", "reset", "change", "change", "live")
		s.wantBlocks(1, 2, 3, 4)
		s.wantNoQuery()
		if s.budget.used != 0 {
			t.Errorf("%d bytes are held", s.budget.used)
		}
	})
}

// A real router has a hole here: it keeps the newest 1,024 events, and skips those
// between the answer and the first of them.
func TestMoreEventsThanCanBeHeldAreRequestedAgain(t *testing.T) {
	runScript(t, FollowOptions{RankBytes: 1 << 10}, func(s *script) {
		s.register(s.source(t, true))
		s.lose(store(1))
		q := s.query()
		ans := s.answer(q.StateQuery)
		for i := range uint64(3000) {
			s.publish(store(i + 2))
		}
		if held := s.budget.used; held == 0 || held > 1<<10 {
			t.Errorf("%d bytes are held, want up to 1,024", held)
		}
		q.reply <- ans
		q = s.query()
		if !q.Start.Present || q.Start.Value < 4 || q.Start.Value > 20 {
			t.Errorf("query from %v, want it after the events that were held", q.Start)
		}
		s.wantTrust(Recovering, "")
		s.reply(q)
		s.wantTrust(Live, "")
		if got := s.of(s.key); len(got) != 3001 {
			t.Errorf("%d blocks, want 3,001", len(got))
		}
	})
}

func TestGapIsRequestedFromTheFirstMissingEvent(t *testing.T) {
	runScript(t, FollowOptions{}, func(s *script) {
		s.live()
		s.publish(store(1))
		s.lose(store(2), store(3))
		s.publish(store(4))
		s.wantTrust(Recovering, "events 2 to 4 are missing")
		q := s.query()
		s.wantStart(q, 2)
		ans := s.answer(q.StateQuery)
		s.publish(store(5))
		q.reply <- ans
		s.wantKinds("change", "recovering", "change", "change", "live")
		s.wantBlocks(1, 2, 3, 4, 5)
		s.wantNoQuery()
	})
}

func TestLastEventIsNotLostForGood(t *testing.T) {
	runScript(t, FollowOptions{}, func(s *script) {
		s.live()
		s.lose(store(1))
		start := time.Now()
		q := s.query()
		if d := time.Since(start); d > time.Second {
			t.Errorf("first check after %v, want it within a second", d)
		}
		s.wantTrust(Live, "")
		s.reply(q)
		s.wantBlocks(1)
		s.wantKinds("change")
		for range 100 { // nothing is reported while nothing is new
			s.reply(s.query())
		}
		if d := time.Since(start); d < 100*time.Minute/2-10*time.Minute {
			t.Errorf("100 checks in %v, want them up to a minute apart", d)
		}
		s.wantKinds()
	})
}

func TestQueriesAreRepeatedForAsLongAsTheWorkerIsRegistered(t *testing.T) {
	runScript(t, FollowOptions{}, func(s *script) {
		s.lose(store(1))
		s.register(s.source(t, true))
		start := time.Now()
		for i := range 1000 {
			replies := []any{errors.New("cut"), kvevents.StateAnswer{Kind: kvevents.AnswerError, Message: "cut"},
				kvevents.StateAnswer{Kind: kvevents.AnswerTreeDumpFailed, Message: "cut"},
				kvevents.StateAnswer{Kind: kvevents.AnswerTreeDump, Domain: "cut"}, kvevents.StateAnswer{Tag: "cut"}}
			s.query().reply <- replies[i%len(replies)]
			s.wantTrust(Degraded, "cut")
		}
		if d := time.Since(start); d > 1000*lastRetry || d < 1000*lastRetry/4 {
			t.Errorf("1,000 failures in %v, want pauses of up to %v", d, lastRetry)
		}
		s.publish(store(2))
		s.reply(s.query())
		s.wantTrust(Live, "")
		s.wantBlocks(1, 2)
	})
}

func TestWorkerWithoutTargetIsLiveOnly(t *testing.T) {
	runScript(t, FollowOptions{}, func(s *script) {
		s.lose(store(1))
		s.register(s.source(t, false))
		s.wantTrust(Degraded, "live only")
		s.publish(store(2), store(3))
		s.wantBlocks(2, 3)
		s.lose(store(4))
		s.publish(store(5))
		s.wantBlocks(5)
		s.wantKinds("degraded", "reset", "change", "reset")
		s.wantNoQuery()
	})
}

func TestTwoPublishersOfARankAreAmbiguous(t *testing.T) {
	runScript(t, FollowOptions{}, func(s *script) {
		s.live()
		s.publish(store(1))
		other := newFakeWorker(7, 71)
		s.register(other.source(t, true))
		s.wantTrust(Degraded, "ambiguous")
		s.publish(store(2))
		s.wantBlocks()
		s.unregister(s.source(t, true))
		s.wantTrust(Recovering, "")
		other.record(store(8))
		other.record(store(9))
		q := s.query()
		q.reply <- other.answer(q.StateQuery)
		s.wantTrust(Live, "")
		s.wantBlocks(8, 9)
		s.publish(store(3)) // of the publisher that has left, with the next id
		s.wantBlocks(8, 9)
	})
}

func TestEventsOfOthersAreIgnored(t *testing.T) {
	runScript(t, FollowOptions{}, func(s *script) {
		s.live()
		foreign := newFakeWorker(7, 99) // the right worker, but not its publisher
		s.events <- foreign.record(store(1))
		wrong := newFakeWorker(8, 70) // the right publisher, but another worker
		s.events <- wrong.record(store(2))
		s.wantKinds()
		s.wantBlocks()
	})
}

func TestDumpFromBeforeAClearIsIgnored(t *testing.T) {
	runScript(t, FollowOptions{}, func(s *script) {
		s.lose(store(1))
		s.register(s.source(t, true))
		q := s.query()
		ans := s.answer(q.StateQuery)
		s.publish(kvevents.Event{Kind: kvevents.Cleared}, store(2))
		s.wantKinds("recovering", "reset")
		q.reply <- ans
		s.wantTrust(Live, "")
		s.wantKinds("change", "live")
		s.wantBlocks(2)
		s.wantNoQuery()
	})
}

func TestClearNeedsNoEarlierEvent(t *testing.T) {
	runScript(t, FollowOptions{}, func(s *script) {
		s.live()
		s.publish(store(1))
		s.lose(store(2))
		s.publish(kvevents.Event{Kind: kvevents.Cleared}, store(3))
		s.wantKinds("change", "reset", "change")
		s.wantBlocks(3)
		s.wantNoQuery()
		s.lose(store(4))
		s.publish(kvevents.Event{Kind: kvevents.Cleared, Domain: "worker"})
		s.wantStart(s.query(), 5)
	})
}

func TestWorkerThatCountsAnewIsAskedForEverything(t *testing.T) {
	runScript(t, FollowOptions{}, func(s *script) {
		s.live()
		for i := range uint64(100) {
			s.publish(store(i))
		}
		*s.fakeWorker = *newFakeWorker(7, 70)
		s.lose(store(1000))
		s.reply(s.query()) // a check: the newest event is 1
		s.wantTrust(Degraded, "the newest event of the worker is 1: want 101")
		q := s.query()
		if q.Start.Present {
			t.Errorf("query from %v, want one for the whole state", q.Start)
		}
		ans := s.answer(q.StateQuery)
		s.publish(store(1001))
		q.reply <- ans
		s.wantTrust(Live, "")
		s.wantBlocks(1000, 1001)
	})
}
