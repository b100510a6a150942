package requestplane

import (
	"context"
	"fmt"
	"iter"
)

// Encoding encodes and decodes Go values. The codecs of package codec of this
// module are encodings.
type Encoding interface {
	Name() string // of the Codec
	Append(dst []byte, v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

// Items is Call with Go values. Its options' Codec is ignored in favor of that of
// enc. An item that does not fit T is an error, and the last element.
func Items[T any](ctx context.Context, c *Client, to Address, enc Encoding, request any, options CallOptions) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		data, err := enc.Append(nil, request)
		if err != nil {
			yield(zero, fmt.Errorf("requestplane: call %s: encode the request: %w", to, err))
			return
		}
		options.Codec = Codec(enc.Name())
		for item, err := range c.Call(ctx, to, data, options) {
			if err != nil {
				yield(zero, err)
				return
			}
			var v T
			if err := enc.Unmarshal(item, &v); err != nil {
				yield(zero, fmt.Errorf("requestplane: call %s: decode an item: %w", to, err))
				return
			}
			if !yield(v, nil) {
				return
			}
		}
	}
}

// One makes a call and returns its first item, after which it ends the call. The
// error wraps [ErrNoItem] if there is none.
func One[T any](ctx context.Context, c *Client, to Address, enc Encoding, request any, options CallOptions) (T, error) {
	for item, err := range Items[T](ctx, c, to, enc, request, options) {
		return item, err
	}
	var zero T
	return zero, fmt.Errorf("requestplane: call %s: %w", to, ErrNoItem)
}
