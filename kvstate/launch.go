package kvstate

import (
	"context"
	"iter"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
	"github.com/dynplane/dynplane/kvevents"
)

// urgency is the index of a queue.
type urgency int

const (
	fresh    urgency = iota
	repeated         // a retry or check
)

// emit passes an update of r to the loop.
func (f *follower) emit(r *rankState, kind UpdateKind, events iter.Seq[*kvevents.Event]) {
	if !f.stopped {
		u := Update{kind, r.key.worker, r.key.rank, r.trust, r.reason, events}
		f.stopped = !f.yield(u, nil)
	}
}

func (f *follower) setTrust(r *rankState, trust Trust, reason string) {
	if r.trust != trust || r.reason != reason {
		r.trust, r.reason = trust, reason
		f.emit(r, TrustChanged, nil)
	}
}

// member applies a change of the registered sources.
func (f *follower) member(ev discovery.Event) {
	switch ev.Type {
	case discovery.Synced:
		if !f.stopped {
			f.stopped = !f.yield(Update{Kind: Synced}, nil)
		}
	case discovery.Removed:
		f.remove(ev.Instance.ID())
	default:
		s, ok, err := parseSource(ev.Instance)
		if err != nil {
			f.logger.Warn("kvstate: invalid event source", "id", ev.Instance.ID(), "error", err)
		}
		if old, known := f.sources[ev.Instance.ID()]; known && old != s {
			f.remove(old.id)
		} else if known {
			return
		}
		if ok {
			f.add(s)
		}
	}
}

func (f *follower) add(s source) {
	r := f.ranks[s.key]
	if r == nil {
		r = &rankState{key: s.key, backoff: wait.Backoff{Min: firstRetry, Max: lastRetry}}
		f.ranks[s.key] = r
	}
	f.sources[s.id] = s
	if s.publisher != 0 {
		f.publishers[s.publisher] = r
	}
	f.join(r, s)
}

func (f *follower) remove(id discovery.ID) {
	s, ok := f.sources[id]
	if !ok {
		return
	}
	delete(f.sources, id)
	delete(f.publishers, s.publisher)
	if f.leave(f.ranks[s.key], id) {
		delete(f.ranks, s.key)
	}
}

// await waits for the subscription to be in effect at the newcomers.
func (f *follower) await() {
	if f.waiting || len(f.newcomers) == 0 || f.stopped {
		return
	}
	f.waiting = true
	ranks := f.newcomers
	f.newcomers = nil
	f.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(f.life, readyTimeout)
		defer cancel()
		// Without it, a check reveals what was lost.
		_ = f.stream.Ready(ctx)
		f.ready <- ranks
		f.waker.wake()
	})
}

// fire handles the ranks that are due, and sets the alarm for the next one.
func (f *follower) fire(now time.Time) {
	for len(f.schedule) > 0 && !f.stopped {
		r := f.schedule[0]
		if left := r.due.Sub(now); left > 0 {
			f.alarm.Reset(left)
			return
		}
		f.schedule.remove(r)
		f.fired(r)
	}
}

// at makes r due at a time.
func (f *follower) at(r *rankState, due time.Time) {
	f.schedule.set(r, due)
	f.waker.wake()
}

// want queues a query of r, unless one is under way or has to wait.
func (f *follower) want(r *rankState, u urgency) {
	if r.queued || r.failing || r.query != nil || !r.queryable() {
		return
	}
	r.queued = true
	f.queue[u] = append(f.queue[u], r)
	f.waker.wake()
}

// launch sends the queries that may be sent now.
func (f *follower) launch() {
	for u, bound := range [...]int{fresh: maxQueries, repeated: maxRepeated} {
		for len(f.queue[u]) > 0 && f.running[u] < bound && f.running[fresh]+f.running[repeated] < maxQueries && !f.stopped {
			r := f.queue[u][0]
			f.queue[u][0] = nil
			f.queue[u] = f.queue[u][1:]
			r.queued = false
			if r.queryable() {
				f.running[u]++
				f.send(r, urgency(u))
			}
		}
	}
}

// send begins a query of r. Events that were received before need not be held,
// since workers record an event before they publish it: the answer has them.
func (f *follower) send(r *rankState, u urgency) {
	q := &query{rank: r, urgency: u, cursor: r.cursor}
	if r.known && !r.full {
		q.start = kvevents.Some(r.cursor + 1)
		q.check = r.newest <= r.cursor
	} else {
		r.newest = 0
	}
	r.query = q
	ctx, cancel := context.WithCancel(f.life)
	q.cancel = cancel
	to, key := r.sources[0].target, r.key
	f.tasks.Go(func() {
		defer cancel()
		res := &result{query: q}
		ans, err := f.query(ctx, to, kvevents.StateQuery{Worker: key.worker, Rank: key.rank, Start: q.start, DumpFailed: true})
		if err == nil {
			res.answer, err = checkAnswer(ans, key, q.start)
			res.refused = err != nil
		}
		res.err = err
		f.results <- res
		f.waker.wake()
	})
}

// finished applies the result of a query, unless its rank has another one by now.
func (f *follower) finished(res *result) {
	f.running[res.query.urgency]--
	if res.query.rank.query == res.query {
		f.answered(res)
	}
}
