// Package codec encodes events and their envelopes, and decodes them again.
//
// An event is any Go value. [JSON] or [Msgpack] encodes it into a payload. An
// [Envelope] contains the payload, the id of its publisher, its sequence and the time
// at which it was published, and can be encoded with either codec. A publisher
// calls
//
//	payload, err := codec.Msgpack.Append(nil, event)
//	env := codec.Envelope{PublisherID: id, Sequence: seq, PublishedAt: ms, Topic: topic, Payload: payload}
//	body, err := env.Append(nil, codec.Msgpack)
//
// and a subscriber, which can decode both codecs, calls
//
//	var env codec.Envelope
//	err := env.Decode(body)
//	err = env.Codec.Unmarshal(env.Payload, &event)
//
// In msgpack, an envelope is the bytes that NVIDIA Dynamo sends (rmp_serde with
// field names). Its JSON format is defined by this module. Both are described in
// docs/protocol.md.
//
// # Hostile input
//
// All decoders accept bytes from the network. A first pass, which takes time
// linear in the input and allocates nothing, rejects input that is not exactly
// one value: lengths and counts beyond the input, more than 128 levels of
// nesting, bytes after the value. Unmarshal also rejects a message that could
// take more than 64 MiB as a Go value of the type it is decoded into, since one
// byte of input can become hundreds of bytes in memory.
//
// # Concurrency
//
// All functions and methods are safe for concurrent use, except for methods of
// the same Envelope.
package codec

import (
	"errors"
	"fmt"
)

// Codec encodes and decodes events. It has no settings. Its methods are safe for
// concurrent use.
type Codec interface {
	// Name returns the name by which [Lookup] finds the codec.
	Name() string

	// Append appends the encoded v to dst and returns the extended buffer,
	// which may be newly allocated. With an error it returns dst unchanged. The
	// codec keeps no reference to either buffer.
	Append(dst []byte, v any) ([]byte, error)

	// Unmarshal decodes data, which must be exactly one value, into the value
	// that v points to, which should be a zero value. It keeps no reference to
	// data. The error is a *[FormatError] if data is malformed or would take
	// too much memory. If data is well formed and does not fit v, it wraps the
	// error of the underlying library.
	Unmarshal(data []byte, v any) error
}

// ErrUnknown is returned, wrapped, by [Lookup] and [Envelope.Append] for a codec
// that is not in this package.
var ErrUnknown = errors.New("unknown codec")

// Lookup returns the codec with the given name: "json" or "msgpack", in lower
// case. For any other name the error wraps [ErrUnknown].
func Lookup(name string) (Codec, error) {
	for _, c := range []Codec{JSON, Msgpack} {
		if c.Name() == name {
			return c, nil
		}
	}
	return nil, fmt.Errorf("codec: %w %q: want %s or %s", ErrUnknown, name, JSON.Name(), Msgpack.Name())
}

// FormatError reports input that is malformed, or that is not the value expected.
type FormatError struct {
	Format string // "json" or "msgpack", or empty if the input is neither
	Field  string // field of the envelope, or empty outside of an envelope
	Offset int    // offset of the problem in bytes, from 0
	Reason string // problem and expectation; may quote up to 32 bytes of the input
	Err    error  // cause, or nil
}

// Error implements error.
func (e *FormatError) Error() string {
	what := e.Format
	if e.Field != "" {
		what += " envelope: field " + e.Field
	}
	if what == "" {
		what = "envelope"
	}
	if e.Err != nil {
		return fmt.Sprintf("codec: %s: byte %d: %s: %v", what, e.Offset, e.Reason, e.Err)
	}
	return fmt.Sprintf("codec: %s: byte %d: %s", what, e.Offset, e.Reason)
}

// Unwrap returns the cause.
func (e *FormatError) Unwrap() error { return e.Err }
