package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/eventplane"
)

// jsonEvent is an event in JSON that either codec can encode.
type jsonEvent []byte

func (e jsonEvent) validate() error {
	if !utf8.Valid(e) {
		return errors.New("not UTF-8")
	}
	return json.Unmarshal(e, new(json.RawMessage))
}

// MarshalJSON implements json.Marshaler.
func (e jsonEvent) MarshalJSON() ([]byte, error) { return e, nil }

// EncodeMsgpack implements msgpack.CustomEncoder. Keys are sorted, so that equal
// events have equal bytes.
func (e jsonEvent) EncodeMsgpack(enc *msgpack.Encoder) error {
	dec := json.NewDecoder(bytes.NewReader(e))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return err
	}
	v, err := exact(v)
	if err != nil {
		return err
	}
	enc.SetSortMapKeys(true)
	return enc.Encode(v)
}

// exact replaces the numbers in v, which was decoded from JSON with UseNumber.
func exact(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case json.Number:
		return exactNumber(v.String())
	case []any:
		for i := range v {
			if v[i], err = exact(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for key := range v {
			if v[key], err = exact(v[key]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// exactNumber returns an integer without loss, or an error if msgpack cannot hold
// it.
func exactNumber(s string) (any, error) {
	if strings.ContainsAny(s, ".eE") {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return nil, fmt.Errorf("number %s: want one in the range of a 64-bit float", s)
		}
		return f, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("integer %s: want -2^63 to 2^64-1, the range of msgpack", s)
	}
	return n, nil
}

// eventLine is the JSON of a received event.
type eventLine struct {
	Topic         string          `json:"topic"`
	PublisherID   uint64          `json:"publisher_id"`
	Sequence      uint64          `json:"sequence"`
	PublishedAt   uint64          `json:"published_at"`
	Missed        uint64          `json:"missed"`
	Payload       json.RawMessage `json:"payload,omitempty"`
	PayloadBase64 []byte          `json:"payload_base64,omitzero"`
}

// gapLine is the JSON of a gap.
type gapLine struct {
	Gap gapFields `json:"gap"`
}

type gapFields struct {
	PublisherID uint64 `json:"publisher_id"`
	First       uint64 `json:"first"`
	Last        uint64 `json:"last"`
	Recovered   bool   `json:"recovered"`
}

func newEventLine(ev eventplane.Event) eventLine {
	l := eventLine{
		Topic: ev.Topic, PublisherID: ev.PublisherID, Sequence: ev.Sequence,
		PublishedAt: ev.PublishedAt, Missed: ev.Missed,
	}
	var ok bool
	if l.Payload, ok = payloadJSON(ev.Envelope); !ok {
		l.PayloadBase64 = append([]byte{}, ev.Payload...)
	}
	return l
}

// payloadJSON returns the payload as JSON, if it can be decoded. Normally it is an
// event in the envelope's codec. A payload that the envelope marks as bytes, or that
// is not msgpack in a msgpack envelope, is returned only if it is a JSON object or
// array: the older generation of Dynamo sends JSON events as bytes.
func payloadJSON(e codec.Envelope) (json.RawMessage, bool) {
	if !e.Bytes {
		if e.Codec == codec.JSON {
			return e.Payload, true
		}
		if text, err := codec.AppendJSON(nil, e.Payload); err == nil {
			return text, true
		}
	}
	text := bytes.TrimLeft(e.Payload, " \t\r\n")
	if len(text) > 0 && (text[0] == '{' || text[0] == '[') && utf8.Valid(text) && json.Valid(text) {
		return text, true
	}
	return nil, false
}
