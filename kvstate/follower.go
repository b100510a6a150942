package kvstate

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/kvevents"
)

const (
	// maxQueries bounds the queries at once, and maxRepeated those that are retries or
	// checks, so that workers that do not answer delay no newcomer.
	maxQueries  = 16
	maxRepeated = maxQueries / 2

	// readyTimeout bounds the wait for the subscription before newcomers are queried: a
	// peer that is down would delay all.
	readyTimeout = time.Second
)

// stream is what a follower uses of an [eventplane.Subscriber].
type stream interface {
	Next(ctx context.Context) (eventplane.Event, error)
	Ready(ctx context.Context) error
}

// follower is a run of Follow. It belongs to the goroutine of the loop: the others
// send it what they obtain, and wake it.
type follower struct {
	yield   func(Update, error) bool
	stopped bool // the loop was left

	stream stream
	query  querier
	check  time.Duration // longest time between two checks of a rank, or 0
	budget budget
	logger *slog.Logger

	ranks      map[rankKey]*rankState
	publishers map[uint64]*rankState // by the ids of their sources
	sources    map[discovery.ID]source
	schedule   schedule
	newcomers  []*rankState // which wait for the subscription
	waiting    bool         // for it
	queue      [2][]*rankState
	running    [2]int

	decoder  kvevents.Decoder
	replayed kvevents.Decoder
	event    *kvevents.Event
	one      iter.Seq[*kvevents.Event] // yields event

	life    context.Context
	tasks   sync.WaitGroup
	members chan member
	results chan *result
	ready   chan []*rankState
	alarm   *time.Timer
	waker   waker
}

// member is an element of the watch of sources.
type member struct {
	event discovery.Event
	err   error
}

func newFollower(s stream, query querier, o FollowOptions, yield func(Update, error) bool) *follower {
	f := &follower{
		yield: yield, stream: s, query: query, check: o.check(), logger: o.logger(),
		budget:     budget{each: o.rankBytes(), all: o.totalBytes()},
		ranks:      map[rankKey]*rankState{},
		publishers: map[uint64]*rankState{},
		sources:    map[discovery.ID]source{},
		members:    make(chan member, 256),
		results:    make(chan *result, maxQueries),
		ready:      make(chan []*rankState, 1),
	}
	f.one = func(yield func(*kvevents.Event) bool) { yield(f.event) }
	return f
}

// run follows the sources of a watch until ctx is done, the loop is left, or the
// watch or stream ends.
func (f *follower) run(ctx context.Context, watch func(context.Context) iter.Seq2[discovery.Event, error]) error {
	life, cancel := context.WithCancel(ctx)
	defer f.tasks.Wait()
	defer cancel()
	f.life = life
	f.waker.renew(life)
	f.alarm = time.AfterFunc(time.Hour, f.waker.wake)
	defer f.alarm.Stop()
	f.tasks.Go(func() {
		for ev, err := range watch(life) {
			select {
			case f.members <- member{ev, err}:
				f.waker.wake()
			case <-life.Done():
				return
			}
		}
	})
	for !f.stopped {
		woken := f.waker.renew(life)
		if err := f.work(); err != nil {
			return err
		}
		if err := f.receive(woken); err != nil {
			return err
		}
	}
	return nil
}

// receive applies events of the stream until the follower is woken.
func (f *follower) receive(woken context.Context) error {
	for !f.stopped {
		ev, err := f.stream.Next(woken)
		if err == nil {
			f.live(ev)
			continue
		}
		if _, invalid := errors.AsType[*eventplane.DecodeError](err); invalid {
			f.logger.Debug("kvstate: invalid message", "error", err)
			continue
		}
		if woken.Err() != nil {
			return f.life.Err()
		}
		return err
	}
	return nil
}

// live applies a message of the stream.
func (f *follower) live(ev eventplane.Event) {
	if _, err := f.decoder.Router(ev.Payload); err != nil {
		f.logger.Debug("kvstate: invalid payload", "publisher", ev.PublisherID, "error", err)
		return
	}
	announced := f.publishers[ev.PublisherID]
	for e := range f.decoder.Events() {
		key := rankKey{e.Worker, e.Rank.Value}
		r := announced
		if r == nil {
			// Dynamo up to 1.3 announces no publishers.
			if r = f.ranks[key]; r == nil || r.sources[0].publisher != 0 {
				continue
			}
		}
		if r.key == key {
			f.liveEvent(r, e)
		}
		if f.stopped {
			return
		}
	}
}

// work handles everything but events, as far as it can be done now.
func (f *follower) work() error {
	for !f.stopped {
		select {
		case m := <-f.members:
			if m.err != nil {
				return m.err
			}
			f.member(m.event)
			continue
		case res := <-f.results:
			f.finished(res)
			continue
		case ranks := <-f.ready:
			f.waiting = false
			for _, r := range ranks {
				f.want(r, fresh)
			}
			continue
		default:
		}
		break
	}
	f.await()
	f.fire(time.Now())
	f.launch()
	return nil
}
