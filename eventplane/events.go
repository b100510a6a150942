package eventplane

import (
	"context"
	"errors"
	"iter"
)

// TypedEvent is an event with its decoded payload.
type TypedEvent[T any] struct {
	Event
	Value T
}

// Events returns an iterator over the events that s receives, decoded into T.
// It calls [Subscriber.Next] for each event, so the rules of that method apply:
// one goroutine at a time.
//
// The iterator ends after it has yielded an error, which may be that of ctx. The
// exception is a [*DecodeError]: it is yielded too, and the iterator continues.
// If the payload does not fit T, the event is yielded with the error, and its
// Value may be partly filled. A gap, if these are requested, has no Value.
func Events[T any](ctx context.Context, s *Subscriber) iter.Seq2[TypedEvent[T], error] {
	return func(yield func(TypedEvent[T], error) bool) {
		for {
			ev, err := nextTyped[T](ctx, s)
			if !yield(ev, err) {
				return
			}
			if _, ok := errors.AsType[*DecodeError](err); err != nil && !ok {
				return
			}
		}
	}
}

// nextTyped returns the event also if its payload does not fit T.
func nextTyped[T any](ctx context.Context, s *Subscriber) (out TypedEvent[T], err error) {
	if out.Event, err = s.Next(ctx); err != nil || out.Gap != nil {
		return out, err
	}
	if err = out.Decode(&out.Value); err != nil {
		s.countDecodeError()
	}
	return out, err
}
