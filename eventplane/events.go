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

// Events yields what s receives, decoded into T, until the loop is left or the
// stream ends; its last element is then an error that says why, that of ctx
// among them. A *DecodeError is an element on the way: the stream goes on. It
// is s.Next in a loop, so the same rules apply.
func Events[T any](ctx context.Context, s *Subscriber) iter.Seq2[TypedEvent[T], error] {
	return func(yield func(TypedEvent[T], error) bool) {
		for {
			ev, err := nextTyped[T](ctx, s)
			if !yield(ev, err) {
				return
			}
			var bad *DecodeError
			if err != nil && !errors.As(err, &bad) {
				return
			}
		}
	}
}

// nextTyped returns the event also where its payload is not a T.
func nextTyped[T any](ctx context.Context, s *Subscriber) (out TypedEvent[T], err error) {
	if out.Event, err = s.Next(ctx); err != nil {
		return out, err
	}
	if err = out.Decode(&out.Value); err != nil {
		s.countBad()
	}
	return out, err
}
