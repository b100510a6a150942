package kvstate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/dynplane/dynplane/kvevents"
	"github.com/dynplane/dynplane/requestplane"
)

const (
	// queryIdle bounds the wait for the next bytes of a worker, and queryTimeout an
	// answer in all, since it holds one of few permits.
	queryIdle    = 10 * time.Second
	queryTimeout = 5 * time.Minute
)

// querier sends a query to a worker and returns its answer.
type querier func(context.Context, target, kvevents.StateQuery) (kvevents.StateAnswer, error)

// queryOver returns the querier of a client of the request plane.
func queryOver(client *requestplane.Client) querier {
	return func(ctx context.Context, to target, q kvevents.StateQuery) (ans kvevents.StateAnswer, err error) {
		encode := q.MarshalJSON
		if to.codec == requestplane.Msgpack {
			encode = q.MarshalMsgpack
		}
		request, err := encode()
		if err != nil {
			return ans, err
		}
		ctx, cancel := context.WithTimeout(ctx, queryTimeout)
		defer cancel()
		options := requestplane.CallOptions{Codec: to.codec, Idle: queryIdle}
		for item, err := range client.Call(ctx, to.address, request, options) {
			if err == nil {
				err = ans.UnmarshalMsgpack(item)
			}
			return ans, err
		}
		return ans, requestplane.ErrNoItem
	}
}

// query is a request to a worker that is in flight.
type query struct {
	rank   *rankState
	start  kvevents.Optional[uint64] // absent for the full state
	cursor uint64                    // of the rank when it was sent
	check  bool                      // no event was known to be missing

	urgency urgency
	cancel  context.CancelFunc
}

// result is the outcome of a query.
type result struct {
	query *query
	answer
	err     error
	refused bool // err concerns the content of the answer
}

// answer is an answer whose events have been checked.
type answer struct {
	kvevents.StateAnswer
	last    uint64 // id up to which the events are complete
	invalid string // why some events have no effect, or empty
}

// checkAnswer checks that the events of an answer are those that were requested:
// all of the rank, and without a hole.
func checkAnswer(ans kvevents.StateAnswer, key rankKey, start kvevents.Optional[uint64]) (answer, error) {
	a := answer{StateAnswer: ans, last: ans.LastID}
	var check func(*kvevents.Event) error
	switch ans.Kind {
	case kvevents.AnswerEvents:
		a.last = 0
		if start.Present {
			a.last = start.Value - 1
		}
		check = a.follow
	case kvevents.AnswerTreeDump:
		if ans.Domain != "" {
			return a, fmt.Errorf("the state covers only the residency domain %q: want all", clip(ans.Domain))
		}
		check = func(*kvevents.Event) error { return nil }
	case kvevents.AnswerTreeDumpFailed:
		return a, fmt.Errorf("the worker cannot determine its state: %s", clip(ans.Message))
	case kvevents.AnswerError:
		return a, fmt.Errorf("the worker answers: %s", clip(ans.Message))
	case kvevents.AnswerTooNew:
		if !start.Present {
			return a, errors.New("the worker answers TooNew to a query without a start")
		}
		return a, nil
	case kvevents.AnswerInvalidRange:
		return a, errors.New("the worker answers InvalidRange to a query without an end")
	default:
		return a, fmt.Errorf("the worker answers %q: want Events or TreeDump", clip(ans.Tag))
	}
	for e, err := range eventsOf(ans.Events) {
		if err != nil {
			return a, err
		}
		switch {
		case e.Problem != nil:
			a.invalid = e.Problem.Error()
		case e.Worker != key.worker || e.Rank.Value != key.rank:
			return a, fmt.Errorf("the answer has an event of worker %x, rank %d", e.Worker, e.Rank.Value)
		}
		if err := check(e); err != nil {
			return a, err
		}
	}
	if ans.LastID > a.last {
		return a, fmt.Errorf("the answer lacks event %d", a.last+1)
	}
	return a, nil
}

// follow checks that e is the event after a.last, or begins the state anew.
func (a *answer) follow(e *kvevents.Event) error {
	switch {
	case e.ID <= a.last:
		return nil // a duplicate
	case e.ID == a.last+1, clearsAll(e):
		a.last = e.ID
		return nil
	}
	return fmt.Errorf("the answer lacks event %d", a.last+1)
}

// clearsAll reports whether e leaves no block of its rank, whatever was before it.
func clearsAll(e *kvevents.Event) bool { return e.Kind == kvevents.Cleared && e.Domain == "" }

// eventsOf returns the events of an answer, decoded anew by each loop.
func eventsOf(events []byte) iter.Seq2[*kvevents.Event, error] {
	return func(yield func(*kvevents.Event, error) bool) {
		if len(events) == 0 {
			return
		}
		d := kvevents.Decoder{MaxBytes: math.MaxInt}
		if _, err := d.Router(events); err != nil {
			yield(nil, err)
			return
		}
		for e := range d.Events() {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// eventsAfter returns the events of a checked answer that follow those up to an id,
// or all if it is absent.
func eventsAfter(events []byte, id kvevents.Optional[uint64]) iter.Seq[*kvevents.Event] {
	return func(yield func(*kvevents.Event) bool) {
		for e, err := range eventsOf(events) {
			if err != nil {
				return
			}
			if id.Present && e.ID <= id.Value {
				continue
			}
			if !yield(e) {
				return
			}
		}
	}
}
