package kvstate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
	"github.com/dynplane/dynplane/kvevents"
)

const (
	// The pauses between failed queries of a rank, for as long as it is registered.
	firstRetry = 200 * time.Millisecond
	lastRetry  = 30 * time.Second

	// firstCheck is the time after the first answer in which a rank without events is
	// queried again: what it published before the subscription was in effect at its
	// side has reached no subscriber.
	firstCheck = time.Second
)

// rankState is what is kept of a rank. Its blocks are the caller's.
type rankState struct {
	key     rankKey
	sources []source // one, unless the rank is ambiguous
	trust   Trust
	reason  string

	known  bool   // a Reset was reported, and everything up to cursor
	cursor uint64 // id of the last event that was reported
	newest uint64 // highest id that was received
	full   bool   // the next query is for the full state

	invalid string // why an event of the last Reset has no effect

	query   *query // in flight
	queued  bool
	failing bool // the next query waits for due
	held    held
	backoff wait.Backoff
	rounds  int // answers since the last event was missing first

	active bool          // an event was reported since the last check was scheduled
	idle   time.Duration // after which a rank without events is checked
	due    time.Time     // of the next retry or check
	place  int           // in the schedule, from 1; 0 if it is not there
}

// queryable reports whether there is one worker that answers queries of r.
func (r *rankState) queryable() bool { return len(r.sources) == 1 && r.sources[0].target.missing == "" }

// liveEvent applies, holds or discards an event from the stream.
func (f *follower) liveEvent(r *rankState, e *kvevents.Event) {
	switch {
	case e.Problem != nil || len(r.sources) != 1:
		return // an invalid event leaves a hole, which the next one or a check reveals
	case r.sources[0].target.missing != "":
		f.liveOnly(r, e)
		return
	}
	previous := r.newest
	r.newest = max(r.newest, e.ID)
	inFlight := r.query != nil
	switch {
	case clearsAll(e) && (!r.known || e.ID > r.cursor):
		f.cleared(r, e)
	case inFlight && !r.query.start.Present: // also below the cursor: the worker may count anew
		r.held.add(&f.budget, e.Raw)
	case r.known && e.ID <= r.cursor:
	case r.known && e.ID == r.cursor+1:
		f.change(r, e)
	case inFlight:
		r.held.add(&f.budget, e.Raw)
	case r.known && previous <= r.cursor:
		f.missing(r)
		f.want(r, fresh)
	}
}

// change reports the event that follows those up to the cursor.
func (f *follower) change(r *rankState, e *kvevents.Event) {
	r.cursor = e.ID
	r.active = true
	f.event = e
	f.emit(r, Change, f.one)
}

// cleared reports a clear of everything, for which no earlier event is needed.
func (f *follower) cleared(r *rankState, e *kvevents.Event) {
	r.known, r.cursor, r.active = true, e.ID, true
	r.full, r.invalid = false, ""
	f.event = e
	f.emit(r, Reset, f.one)
	if r.query == nil && r.newest == r.cursor {
		f.complete(r)
	}
}

// liveOnly reports an event of a rank that cannot be queried. A gap leaves only what
// follows it.
func (f *follower) liveOnly(r *rankState, e *kvevents.Event) {
	switch {
	case !r.known || e.ID > r.cursor+1:
		r.known, r.cursor = true, e.ID
		f.event = e
		f.emit(r, Reset, f.one)
	case e.ID == r.cursor+1:
		f.change(r, e)
	}
}

// missing makes r Recovering, unless a query has failed already.
func (f *follower) missing(r *rankState) {
	if r.trust == Live {
		f.setTrust(r, Recovering, fmt.Sprintf("events %d to %d are missing", r.cursor+1, r.newest))
	}
}

// answered applies the result of the query of its rank.
func (f *follower) answered(res *result) {
	q, r := res.query, res.query.rank
	r.query = nil
	waiting := r.held.take(&f.budget)
	failure := f.apply(q, res)
	f.replay(r, waiting)
	switch {
	case f.stopped:
	case failure != "":
		f.fail(r, failure)
	case r.newest <= r.cursor:
		f.complete(r)
	default:
		f.again(r, q.check || r.cursor > q.cursor)
	}
}

// apply reports the events of an answer. It returns why the state is not complete
// up to the cursor, or nothing.
func (f *follower) apply(q *query, res *result) (failure string) {
	r := q.rank
	switch {
	case res.err != nil:
		r.full = r.full || res.refused
		return res.err.Error()
	case res.Kind == kvevents.AnswerTooNew:
		if q.check && res.Newest == q.cursor {
			return "" // nothing was lost
		}
		r.full = true // in case that the worker has begun to count again
		return fmt.Sprintf("the newest event of the worker is %d: want %d", res.Newest, q.start.Value)
	case res.Kind == kvevents.AnswerEvents && r.known && q.start.Present:
		if after := kvevents.Some(r.cursor); res.last > r.cursor {
			r.cursor = res.last
			f.emit(r, Change, eventsAfter(res.Events, after))
		}
		if r.full = res.invalid != ""; r.full {
			failure = "an event is invalid: " + res.invalid
		}
	case r.cursor > q.cursor && res.last < r.cursor:
		return "" // a clear, or what followed, was reported meanwhile
	case q.check && res.last == r.cursor:
		return ""
	default:
		r.known, r.full = true, false
		r.cursor, r.invalid = res.last, res.invalid
		f.emit(r, Reset, eventsAfter(res.Events, kvevents.Optional[uint64]{}))
	}
	r.newest = max(r.newest, r.cursor)
	return failure
}

// replay reports the held events that follow the cursor without a hole.
func (f *follower) replay(r *rankState, h held) {
	begin := 0
	for _, end := range h.ends {
		_, err := f.replayed.Router(h.data[begin:end])
		begin = end
		if err != nil || !r.known {
			return
		}
		for e := range f.replayed.Events() {
			if e.ID == r.cursor+1 {
				f.change(r, e)
			} else if e.ID > r.cursor {
				return
			}
		}
	}
}

// complete ends the recovery of r.
func (f *follower) complete(r *rankState) {
	if r.idle == 0 {
		r.idle = min(firstCheck, f.check)
	} else {
		r.idle = min(2*r.idle, f.check)
	}
	r.backoff.Reset()
	r.rounds, r.failing = 0, false
	f.scheduleCheck(r)
	if r.invalid != "" {
		f.setTrust(r, Degraded, "an event of the worker's state is invalid: "+r.invalid)
	} else {
		f.setTrust(r, Live, "")
	}
}

// again requests the events that are missing after an answer. It does so at once a
// few times, and then, as far as the answers bring r forward, after short pauses.
func (f *follower) again(r *rankState, progress bool) {
	const atOnce = 3
	r.rounds++
	switch {
	case !progress:
		f.fail(r, fmt.Sprintf("the answers lack events %d to %d", r.cursor+1, r.newest))
	case r.rounds <= atOnce:
		f.missing(r)
		f.want(r, fresh)
	default:
		r.backoff.Reset()
		f.missing(r)
		f.pause(r)
	}
}

// fail makes r Degraded, and due for another query.
func (f *follower) fail(r *rankState, reason string) {
	f.setTrust(r, Degraded, clip(reason))
	f.pause(r)
}

func (f *follower) pause(r *rankState) {
	r.failing = true
	f.at(r, time.Now().Add(r.backoff.Next()))
}

func (f *follower) scheduleCheck(r *rankState) {
	r.active = false
	if f.check > 0 {
		f.at(r, time.Now().Add(r.idle/2+rand.N(r.idle/2+1)))
	}
}

// fired handles a rank that is due: after a failure, or for a check.
func (f *follower) fired(r *rankState) {
	switch {
	case r.failing:
		r.failing = false
		f.want(r, repeated)
	case r.query != nil || r.queued:
	case r.active:
		r.idle = max(firstCheck, f.check/8)
		f.scheduleCheck(r)
	default:
		f.want(r, repeated)
	}
}

// join adds a source to r.
func (f *follower) join(r *rankState, s source) {
	r.sources = append(r.sources, s)
	f.begin(r)
}

// leave removes a source from r, and reports whether r has none left.
func (f *follower) leave(r *rankState, id discovery.ID) bool {
	r.sources = slices.DeleteFunc(r.sources, func(s source) bool { return s.id == id })
	if len(r.sources) == 0 {
		f.abandon(r)
		f.emit(r, Gone, nil)
		return true
	}
	f.begin(r)
	return false
}

// abandon ends all that is under way for r.
func (f *follower) abandon(r *rankState) {
	if r.query != nil {
		r.query.cancel()
		r.query = nil
	}
	r.held.take(&f.budget)
	r.failing, r.full, r.invalid, r.rounds, r.idle = false, false, "", 0, 0
	r.backoff.Reset()
	f.schedule.remove(r)
}

// begin starts r with its present sources.
func (f *follower) begin(r *rankState) {
	f.abandon(r)
	if r.known {
		r.known = false
		f.emit(r, Reset, noEvents)
	}
	r.cursor, r.newest = 0, 0
	switch {
	case len(r.sources) > 1:
		f.setTrust(r, Degraded, fmt.Sprintf("ambiguous: %d publishers announce the rank", len(r.sources)))
	case r.sources[0].target.missing != "":
		f.setTrust(r, Degraded, r.sources[0].target.missing)
	default:
		f.setTrust(r, Recovering, "the state is being requested")
		f.newcomers = append(f.newcomers, r)
	}
}
