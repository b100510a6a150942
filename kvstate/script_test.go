package kvstate

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/kvevents"
)

// script is a plane whose queries wait for the test.
type script struct {
	*fakePlane
	*fakeView
	*fakeWorker
	t       *testing.T
	queries chan *scripted
}

type scripted struct {
	kvevents.StateQuery
	reply chan any // a StateAnswer or an error
}

// runScript runs a test with a follower and one worker, which is not registered yet.
func runScript(t *testing.T, o FollowOptions, test func(*script)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &script{fakePlane: newFakePlane(), fakeWorker: newFakeWorker(7, 70), t: t, queries: make(chan *scripted, 10000)}
		s.fakePlane.query = func(ctx context.Context, _ target, q kvevents.StateQuery) (kvevents.StateAnswer, error) {
			a := &scripted{q, make(chan any, 1)}
			s.queries <- a
			select {
			case <-ctx.Done():
				return kvevents.StateAnswer{}, ctx.Err()
			case r := <-a.reply:
				if err, is := r.(error); is {
					return kvevents.StateAnswer{}, err
				}
				return r.(kvevents.StateAnswer), nil
			}
		}
		s.fakeView = s.follow(t, o)
		test(s)
	})
}

// live registers the worker and answers its first query.
func (s *script) live() {
	s.t.Helper()
	s.register(s.source(s.t, true))
	s.reply(s.query())
	s.wantTrust(Live, "")
	s.kinds()
}

// query returns the next query.
func (s *script) query() *scripted {
	s.t.Helper()
	select {
	case q := <-s.queries:
		return q
	case <-time.After(5 * time.Minute):
		s.t.Fatal("no query")
		return nil
	}
}

// reply answers as the worker does now.
func (s *script) reply(q *scripted) {
	q.reply <- s.answer(q.StateQuery)
	synctest.Wait()
}

// publish publishes events, and lose publishes them without a subscriber.
func (s *script) publish(events ...kvevents.Event) {
	for _, e := range events {
		s.events <- s.record(e)
	}
	synctest.Wait()
}

func (s *script) lose(events ...kvevents.Event) {
	for _, e := range events {
		s.record(e)
	}
}

func (s *script) wantTrust(trust Trust, reason string) {
	s.t.Helper()
	synctest.Wait()
	r := s.ranks[s.key]
	if r == nil || r.trust != trust || !strings.Contains(r.reason, reason) {
		s.t.Fatalf("rank %+v, want it %v because of %q", r, trust, reason)
	}
}

func (s *script) wantKinds(want ...string) {
	s.t.Helper()
	synctest.Wait()
	if got := s.kinds(); !slices.Equal(got, want) {
		s.t.Errorf("updates %v, want %v", got, want)
	}
}

func (s *script) wantBlocks(hashes ...uint64) {
	s.t.Helper()
	got := s.of(s.key)
	if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, hashes) {
		s.t.Errorf("blocks %v, want %v", keys, hashes)
	}
}

func (s *script) wantNoQuery() {
	s.t.Helper()
	synctest.Wait()
	select {
	case q := <-s.queries:
		s.t.Errorf("query %+v, want none", q.StateQuery)
	default:
	}
}

func (s *script) wantStart(q *scripted, start uint64) {
	s.t.Helper()
	if q.Start != kvevents.Some(start) {
		s.t.Errorf("query from %v, want it from %d", q.Start, start)
	}
}
