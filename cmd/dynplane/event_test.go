package main

import (
	"errors"
	"math"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/eventplane"
)

func TestJSONEventInMsgpackIsExact(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]any{
		"0":                    int64(0),
		"-9223372036854775808": int64(math.MinInt64),
		"9007199254740993":     int64(9007199254740993),
		"18446744073709551615": uint64(math.MaxUint64),
		"1.0":                  1.0,
		"1e3":                  1000.0,
		`"text"`:               "text",
		"null":                 nil,
		"[true,[]]":            []any{true, []any{}},
		`{"b":{"c":18446744073709551615},"a":"<>"}`: map[string]any{
			"b": map[string]any{"c": uint64(math.MaxUint64)}, "a": "<>",
		},
	} {
		data, err := codec.Msgpack.Append(nil, jsonEvent(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var got any
		if err := codec.Msgpack.Unmarshal(data, &got); err != nil || !equalNumbers(got, want) {
			t.Errorf("%s: %#v, %v, want %#v", text, got, err, want)
		}
	}
}

// equalNumbers is reflect.DeepEqual, except that signed and unsigned integers of
// the same value are equal: the decoder's choice depends on the encoded width.
func equalNumbers(got, want any) bool {
	if n, ok := want.(int64); ok {
		if u, ok := got.(uint64); ok {
			return n >= 0 && uint64(n) == u
		}
	}
	return reflect.DeepEqual(got, want)
}

func TestJSONEventThatMsgpackCannotHold(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"18446744073709551616", "-9223372036854775809", "1e999", `{"a":[99999999999999999999]}`} {
		if data, err := codec.Msgpack.Append(nil, jsonEvent(text)); err == nil {
			t.Errorf("%s is % x, want an error", text, data)
		}
		if data, err := codec.JSON.Append(nil, jsonEvent(text)); err != nil || string(data) != text {
			t.Errorf("as JSON %s is %s, %v, want it as it is", text, data, err)
		}
	}
}

func TestJSONEventValidate(t *testing.T) {
	t.Parallel()
	for text, valid := range map[string]bool{
		`{"a":1}`: true, "5": true, "": false, "{} {}": false, "{a:1}": false, "\"\xff\"": false,
	} {
		if err := jsonEvent(text).validate(); (err == nil) != valid {
			t.Errorf("%q: %v, want valid: %v", text, err, valid)
		}
	}
}

func TestPayload(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		codec   codec.Codec
		bytes   bool
		payload string
		json    string // empty is base64
	}{
		{"event", codec.JSON, false, `{"a":1}`, `{"a":1}`},
		{"bytes", codec.JSON, true, "payload", ""},
		{"bytes that are a number", codec.JSON, true, "42", ""},
		{"bytes that are msgpack", codec.JSON, true, "\x80", ""},
		{"JSON event of the older runtime", codec.JSON, true, `{"a":18446744073709551615}`, `{"a":18446744073709551615}`},
		{"msgpack", codec.Msgpack, false, "\x81\xa1a\xcf\xff\xff\xff\xff\xff\xff\xff\xff", `{"a":18446744073709551615}`},
		{"msgpack integer", codec.Msgpack, false, "\x70", "112"},
		{"text", codec.Msgpack, false, "payload", ""},
		{"JSON in msgpack", codec.Msgpack, false, ` [1]`, `[1]`},
		{"broken JSON", codec.Msgpack, false, `{"a":`, ""},
		{"JSON that is not UTF-8", codec.Msgpack, false, "[\"\xff\"]", ""},
		{"empty", codec.Msgpack, false, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newEventLine(eventplane.Event{Envelope: codec.Envelope{
				Codec: test.codec, Bytes: test.bytes, Payload: []byte(test.payload),
			}})
			if string(l.Payload) != test.json {
				t.Errorf("payload %q, want %q", l.Payload, test.json)
			}
			if inBase64 := l.PayloadBase64 != nil; inBase64 != (test.json == "") || inBase64 && string(l.PayloadBase64) != test.payload {
				t.Errorf("payload_base64 %q of %q", l.PayloadBase64, test.payload)
			}
		})
	}
}

func TestGapIsALineOfItsOwn(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	a := &app{stdout: &out}
	ev := eventplane.Event{Gap: &eventplane.Gap{PublisherID: math.MaxUint64, First: 5, Last: 8}}
	if err := errors.Join(a.showJSON(ev), a.showTable()(ev)); err != nil {
		t.Fatal(err)
	}
	want := `{"gap":{"publisher_id":18446744073709551615,"first":5,"last":8,"recovered":false}}` + "\n"
	if got, ok := strings.CutPrefix(out.String(), want); !ok || !regexp.MustCompile(`ffffffffffffffff +5-8 +4 +gap`).MatchString(got) {
		t.Errorf("printed %s: want %s and a row", out.String(), want)
	}
}
