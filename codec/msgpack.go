package codec

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/vmihailenco/msgpack/v5"
)

// Msgpack is the codec of MessagePack, in the form that NVIDIA Dynamo writes.
//
// A struct is encoded as a map with field names. They come from the tag `msgpack`
// or, if a field has none, from the tag `json` (name, "-" and omitempty). A nil
// pointer is encoded as nil, []byte as bin, and an integer in the fewest bytes.
// Types can implement CustomEncoder and CustomDecoder of
// [github.com/vmihailenco/msgpack/v5], on which this codec is built.
//
// Decoded into an interface, integers are int64 or uint64 and always exact,
// floats are float64, str and bin are strings, and maps are map[string]any. A
// value that is decoded into an integer type too narrow for it is truncated
// without an error, as the library does; this also converts the signed hashes of
// engines to unsigned. An array fits a struct only if it has one element for each
// field.
//
// Ext types, and with them time.Time, are errors when encoding and when decoding:
// Dynamo has none. Send times as integers.
var Msgpack Codec = &msgpackCodec{}

// msgpackCodec implements Codec. The pools save the allocation of an encoder or a
// decoder for each event.
type msgpackCodec struct {
	encoders sync.Pool // of *msgpackEncoder
	decoders sync.Pool // of *msgpackDecoder
	weights  weights
}

// appendWriter is a writer that appends to b. It also implements io.ByteWriter,
// since the library would otherwise allocate for each single byte that it writes.
type appendWriter struct{ b []byte }

func (w *appendWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

func (w *appendWriter) WriteByte(c byte) error {
	w.b = append(w.b, c)
	return nil
}

// msgpackEncoder is an encoder with the writer that it is reset to.
type msgpackEncoder struct {
	w   appendWriter
	enc *msgpack.Encoder
}

// msgpackDecoder is a decoder with the reader that it is reset to.
type msgpackDecoder struct {
	r   bytes.Reader
	dec *msgpack.Decoder
}

// Name implements Codec.
func (*msgpackCodec) Name() string { return "msgpack" }

// Append implements Codec.
func (c *msgpackCodec) Append(dst []byte, v any) ([]byte, error) {
	e, _ := c.encoders.Get().(*msgpackEncoder)
	if e == nil {
		e = &msgpackEncoder{enc: msgpack.NewEncoder(nil)}
	}
	e.w.b = dst
	e.enc.Reset(&e.w) // also resets the settings
	e.enc.SetCustomStructTag("json")
	e.enc.UseCompactInts(true)
	err := e.enc.Encode(v)
	out := e.w.b
	e.w.b = nil
	c.encoders.Put(e)
	if err != nil {
		return dst, fmt.Errorf("codec: msgpack of %T: %w", v, err)
	}
	// Do not send a message that Unmarshal would reject: ext types, deep
	// nesting, and the mistakes of types that encode themselves.
	_, err = scanAll(out[len(dst):], true)
	if format, ok := errors.AsType[*FormatError](err); ok {
		return dst, fmt.Errorf("codec: msgpack of %T: byte %d: %s", v, format.Offset, format.Reason)
	}
	return out, nil
}

// Unmarshal implements Codec. The scan before it makes data safe for the library.
func (c *msgpackCodec) Unmarshal(data []byte, v any) error {
	total, err := scanAll(data, true)
	if err != nil {
		return err
	}
	if need := c.weights.of(v).of(total); need > maxMemory {
		return tooLarge("msgpack", v, need)
	}
	if p, ok := v.(*any); ok && p != nil {
		*p = nil // the library would decode into the value that it holds
	}
	d, _ := c.decoders.Get().(*msgpackDecoder)
	if d == nil {
		d = &msgpackDecoder{dec: msgpack.NewDecoder(nil)}
	}
	d.r.Reset(data)
	d.dec.Reset(&d.r) // also resets the settings
	d.dec.SetCustomStructTag("json")
	d.dec.UseLooseInterfaceDecoding(true)
	err = d.dec.Decode(v)
	d.r.Reset(nil)
	c.decoders.Put(d)
	if err != nil {
		return fmt.Errorf("codec: msgpack into %T: %w", v, err)
	}
	return nil
}

// tooLarge returns the error for a message that may need more than maxMemory.
func tooLarge(format string, v any, need int64) error {
	return &FormatError{Format: format, Reason: fmt.Sprintf(
		"may take %d MiB as a %T: want at most %d", need>>20, v, maxMemory>>20)}
}
