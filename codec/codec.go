// Package codec turns events and their envelope into bytes and back.
//
// An event is any Go value. [JSON] or [Msgpack] encodes it to a payload; an
// [Envelope] says who published the payload, when, and as which message of a
// sequence, and has a form of its own in either codec. A publisher does
//
//	payload, err := codec.Msgpack.Append(nil, event)
//	env := codec.Envelope{PublisherID: id, Sequence: seq, PublishedAt: ms, Topic: topic, Payload: payload}
//	body, err := env.Append(nil, codec.Msgpack)
//
// and a subscriber, who need not know which codec was used,
//
//	var env codec.Envelope
//	err := env.Decode(body)
//	err = env.Codec.Unmarshal(env.Payload, &event)
//
// The msgpack form is, byte for byte, what NVIDIA Dynamo's Rust runtime sends
// (rmp_serde with field names); the JSON form is ours. Both are described in
// docs/protocol.md.
//
// # Hostile input
//
// Everything that decodes takes bytes from the network. A first pass, linear
// in the input and without allocation, refuses what is not exactly one value:
// lengths and counts beyond the bytes that are there, more than 128 levels of
// nesting, anything after the value. Unmarshal also refuses a message that
// could take more than 64 MiB as the Go value it is decoded into: a byte on
// the wire can otherwise become hundreds in memory.
//
// All functions and methods are safe for concurrent use, except on the same
// Envelope.
package codec

import (
	"errors"
	"fmt"
)

// A Codec encodes events. It has no settings, and its methods are safe for
// concurrent use.
type Codec interface {
	// Name is the name that [Lookup] finds the codec by.
	Name() string

	// Append appends the encoded v to dst and returns the extended buffer,
	// which need not be the same memory. With an error it returns dst as it
	// was. The caller owns the buffers, and can use one for many events.
	Append(dst []byte, v any) ([]byte, error)

	// Unmarshal decodes the one value that data holds into what v points to,
	// which should be a zero value. It keeps no reference to data. Bytes that
	// are not well formed are a *[FormatError]; well-formed ones that do not
	// fit v are the error of the library beneath, wrapped.
	Unmarshal(data []byte, v any) error
}

// ErrUnknown is wrapped by the error for a codec that this package does not
// have.
var ErrUnknown = errors.New("unknown codec")

// Lookup returns the codec of that name: "json" or "msgpack", in lower case.
// Any other name is an error that wraps [ErrUnknown].
func Lookup(name string) (Codec, error) {
	for _, c := range []Codec{JSON, Msgpack} {
		if c.Name() == name {
			return c, nil
		}
	}
	return nil, fmt.Errorf("codec: %w %q: want %s or %s", ErrUnknown, name, JSON.Name(), Msgpack.Name())
}

// A FormatError says where and why bytes are not what was expected.
type FormatError struct {
	Format string // "json", "msgpack", or empty if it is neither
	Field  string // the field of the envelope, or empty outside of one
	Offset int    // the byte at which it was noticed, from 0
	Reason string // what was there, and what was wanted
	Err    error  // the cause, if there is one beneath
}

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

func (e *FormatError) Unwrap() error { return e.Err }
