package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
)

// JSON is the codec of JSON, built on [encoding/json].
//
// A number that is decoded into an interface is a [json.Number], which is exact
// for integers up to 2⁶⁴−1. Unlike json.Marshal, JSON does not escape <, > and &.
var JSON Codec = &jsonCodec{}

// jsonCodec implements Codec. The pool saves the allocation of an encoder for each
// event; json.Encoder has no Reset, so the writer beneath it is kept too.
type jsonCodec struct {
	encoders sync.Pool // of *jsonEncoder
	weights  weights
}

// jsonEncoder is an encoder with its writer.
type jsonEncoder struct {
	w   appendWriter
	enc *json.Encoder
}

// Name implements Codec.
func (*jsonCodec) Name() string { return "json" }

// Append implements Codec. It does not check the output, which types that encode
// themselves may get wrong: Envelope.Append does.
func (c *jsonCodec) Append(dst []byte, v any) ([]byte, error) {
	e, _ := c.encoders.Get().(*jsonEncoder)
	if e == nil {
		e = &jsonEncoder{}
		e.enc = json.NewEncoder(&e.w)
		e.enc.SetEscapeHTML(false)
	}
	e.w.b = dst
	err := e.enc.Encode(v)
	out := e.w.b
	e.w.b = nil
	c.encoders.Put(e)
	if err != nil {
		return dst, fmt.Errorf("codec: json of %T: %w", v, err)
	}
	return out[:len(out)-1], nil // without the newline that Encode adds
}

// Unmarshal implements Codec.
func (c *jsonCodec) Unmarshal(data []byte, v any) error {
	total, err := surveyJSON(data, maxDepth)
	if err != nil {
		return err
	}
	w := c.weights.of(v)
	if need := w.of(total); need > maxMemory {
		return tooLarge("json", v, need)
	}
	if w.any {
		err = unmarshalNumbers(data, v)
	} else {
		err = json.Unmarshal(data, v)
	}
	if err == nil {
		return nil
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return badJSON(syntax)
	}
	return fmt.Errorf("codec: json into %T: %w", v, err)
}

// unmarshalNumbers is json.Unmarshal with UseNumber, which only a json.Decoder
// has. The decoder copies data.
func unmarshalNumbers(data []byte, v any) error {
	if err := validJSON(data); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return dec.Decode(v)
}

// validJSON returns an error unless data is exactly one JSON value. Its nesting
// must have been checked.
func validJSON(data []byte) error {
	if isJSON(data) {
		return nil
	}
	var raw json.RawMessage
	err := json.Unmarshal(data, &raw)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return badJSON(syntax)
	}
	return err
}

// badJSON converts the error of encoding/json.
func badJSON(err *json.SyntaxError) error {
	return &FormatError{Format: "json", Offset: int(err.Offset), Reason: "invalid JSON", Err: err}
}

// surveyJSON counts the values of data, never too few, and returns an error if
// they are nested deeper than limit. It does not check that data is valid JSON.
func surveyJSON(data []byte, limit int) (census, error) {
	total := census{values: 1}
	depth := 0
	for pos := 0; pos < len(data); pos++ {
		switch data[pos] {
		case '"':
			pos = stringEnd(data, pos) - 1
		case '{', '[':
			if data[pos] == '{' {
				total.maps++
			}
			total.values++
			if depth++; depth > limit {
				return total, &FormatError{Format: "json", Offset: pos, Reason: fmt.Sprintf("nested deeper than %d levels", limit)}
			}
		case '}', ']':
			depth--
		case ',', ':':
			total.values++
		}
	}
	return total, nil
}

// stringEnd returns the offset after the JSON string that begins at data[pos],
// or the length of data if the string is not terminated.
func stringEnd(data []byte, pos int) int {
	for pos++; pos < len(data); pos++ {
		switch data[pos] {
		case '\\':
			pos++
		case '"':
			return pos + 1
		}
	}
	return len(data)
}
