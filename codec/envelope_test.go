package codec_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/codec"
)

// unhex reads hex with spaces in it.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vector is one line of testdata/wire-vectors.txt.
type vector struct {
	env  codec.Envelope
	wire []byte
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/wire-vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		col := strings.Split(line, " | ")
		var v vector
		v.env = codec.Envelope{Topic: col[0], Payload: []byte(col[4]), Codec: codec.Msgpack}
		for i, p := range []*uint64{&v.env.PublisherID, &v.env.Sequence, &v.env.PublishedAt} {
			if *p, err = strconv.ParseUint(col[i+1], 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		if count, ok := strings.CutPrefix(col[4], "@"); ok {
			n, err := strconv.Atoi(count)
			if err != nil {
				t.Fatal(err)
			}
			v.env.Payload = make([]byte, n)
			for i := range v.env.Payload {
				v.env.Payload[i] = byte(i)
			}
		}
		v.wire = unhex(t, col[5])
		vs = append(vs, v)
	}
	if len(vs) < 10 {
		t.Fatalf("%d vectors in the file, want all of them", len(vs))
	}
	return vs
}

func TestEnvelopeWireVectors(t *testing.T) {
	t.Parallel()
	for i, v := range readVectors(t) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			got, err := v.env.Append([]byte("kept"), codec.Msgpack)
			if err != nil {
				t.Fatal(err)
			}
			if want := append([]byte("kept"), v.wire...); !bytes.Equal(got, want) {
				t.Errorf("encoded\n%x, want\n%x", got, want)
			}
			var back codec.Envelope
			if err := back.Decode(v.wire); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(back, v.env) {
				t.Errorf("decoded\n%+v, want\n%+v", back, v.env)
			}
		})
	}
}

func TestEnvelopeJSON(t *testing.T) {
	t.Parallel()
	const head = `{"publisher_id":18446744073709551615,"sequence":0,"published_at":1700000000000,"topic":"kv-events",`
	for _, c := range []struct {
		name    string
		payload string
		bytes   bool
		want    string
	}{
		{"event", `{"a":[1,2,18446744073709551615]}`, false, head + `"event":{"a":[1,2,18446744073709551615]}}`},
		{"scalar event", `7`, false, head + `"event":7}`},
		{"null event", `null`, false, head + `"event":null}`},
		{"bytes", "\x00\xff\x10b", true, head + `"payload":"AP8QYg=="}`},
		{"no bytes", "", true, head + `"payload":""}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			env := codec.Envelope{PublisherID: 1<<64 - 1, PublishedAt: 1700000000000, Topic: "kv-events",
				Payload: []byte(c.payload), Bytes: c.bytes, Codec: codec.JSON}
			got, err := env.Append(nil, codec.JSON)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != c.want {
				t.Errorf("encoded\n%s, want\n%s", got, c.want)
			}
			var back codec.Envelope
			if err := back.Decode(got); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(back, env) {
				t.Errorf("decoded\n%+v, want\n%+v", back, env)
			}
		})
	}
}

// The forms in which other publishers may encode the same envelope.
func TestEnvelopeDecodeForms(t *testing.T) {
	t.Parallel()
	want := codec.Envelope{PublisherID: 5, Sequence: 6, PublishedAt: 7, Topic: "ab", Payload: []byte{1, 2}}
	const (
		id, seq, at    = "ac 7075626c69736865725f6964", "a8 73657175656e6365", "ac 7075626c69736865645f6174"
		topic, payload = "a5 746f706963", "a7 7061796c6f6164"
	)
	binary := map[string]string{
		"map":                    "85" + id + "05" + seq + "06" + at + "07" + topic + "a26162" + payload + "c4020102",
		"map in another order":   "85" + payload + "c4020102" + topic + "a26162" + at + "07" + seq + "06" + id + "05",
		"map16":                  "de0005" + id + "05" + seq + "06" + at + "07" + topic + "a26162" + payload + "c4020102",
		"map32":                  "df00000005" + id + "05" + seq + "06" + at + "07" + topic + "a26162" + payload + "c4020102",
		"key as str8":            "85 d90c 7075626c69736865725f6964 05" + seq + "06" + at + "07" + topic + "a26162" + payload + "c4020102",
		"unknown keys":           "89 a178 8192c001d7ff0000000000000000 c3c3" + id + "05" + seq + "06 01 93010203" + at + "07" + topic + "a26162" + payload + "c4020102 910a ca00000000",
		"positional":             "95 05 06 07 a26162 c4020102",
		"array16 with more":      "dc0007 05 06 07 a26162 c4020102 c0 81a0a0",
		"array32":                "dd00000005 05 06 07 a26162 c4020102",
		"wide unsigned":          "95 cc05 cd0006 ce00000007 a26162 c4020102",
		"widest":                 "95 cf0000000000000005 cf0000000000000006 cf0000000000000007 a26162 c4020102",
		"signed":                 "95 d005 d10006 d200000007 a26162 c4020102",
		"widest signed":          "95 d30000000000000005 d005 07 a26162 c4020102",
		"topic str8, payload 16": "95 05 06 07 d9026162 c500020102",
		"topic str32, bin32":     "95 05 06 07 db000000026162 c6000000020102",
		"payload as str":         "95 05 06 07 a26162 a20102",
		"payload as ints":        "95 05 06 07 a26162 92 01 cc02",
	}
	for name, wire := range binary {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := want
			want.Codec = codec.Msgpack
			if name == "widest signed" {
				want.Sequence = 5
			}
			var got codec.Envelope
			if err := got.Decode(unhex(t, wire)); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	text := map[string]string{
		"spaces, order, unknown": "{ \"payload\" : \"AQI=\" ,\n\"x\":{\"payload\":[1,\"}\"]}, \"topic\":\"ab\",\"published_at\": 7,\"sequence\":6 ,\t\"y\":\"\\\"\", \"publisher_id\":5\r\n} \n",
		"array of numbers":       `{"publisher_id":5,"sequence":6,"published_at":7,"topic":"ab","payload":[ 1 , 2]}`,
		"escapes":                `{"publisher_id":5,"sequence":6,"published_at":7,"\u0074opic":"\u0061b","payload":"AQ\u0049="}`,
	}
	for name, wire := range text {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := want
			want.Codec, want.Bytes = codec.JSON, true
			var got codec.Envelope
			if err := got.Decode([]byte(wire)); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestEnvelopeDecodeErrors(t *testing.T) {
	t.Parallel()
	const (
		jsonHead  = `{"publisher_id":5,"sequence":6,"published_at":7,`
		jsonTopic = jsonHead + `"topic":"t",`
	)
	for _, c := range []struct{ name, wire, field, text string }{
		{"empty", "", "", "empty"},
		{"neither", "\xc0", "", "first byte c0"},
		{"json array", "[1]", "", "first byte 5b"},
		{"missing all", "\x80", "publisher_id", "missing"},
		{"short array", "\x94\x05\x06\x07\xa1t", "payload", "missing"},
		{"truncated", "\x95\x05\x06\x07\xa5t", "topic", "str of 5 bytes: only 1 bytes are left"},
		{"truncated count", "\xdd\xff", "", "ends within the array length"},
		{"trailing", "\x95\x05\x06\x07\xa1t\xc4\x00\x00", "", "1 bytes after"},
		{"id negative", "\x95\xff\x06\x07\xa1t\xc4\x00", "publisher_id", "got -1: want a non-negative integer"},
		{"sequence float", "\x95\x05\xca\x00\x00\x00\x00\x07\xa1t\xc4\x00", "sequence", "got float"},
		{"published_at nil", "\x95\x05\x06\xc0\xa1t\xc4\x00", "published_at", "got nil"},
		{"topic bin", "\x95\x05\x06\x07\xc4\x01t\xc4\x00", "topic", "got bin: want str"},
		{"topic not UTF-8", "\x95\x05\x06\x07\xa1\xff\xc4\x00", "topic", "want valid UTF-8"},
		{"payload nil", "\x95\x05\x06\x07\xa1t\xc0", "payload", "got nil: want bin"},
		{"payload of 256", "\x95\x05\x06\x07\xa1t\x91\xcd\x01\x00", "payload", "element 0 is 256: want 0 to 255"},
		{"payload count", "\x95\x05\x06\x07\xa1t\xdd\xff\xff\xff\xff", "payload", "array of 4294967295 elements"},
		{"topic twice", "\x82\xa5topic\xa1t\xa5topic\xa1t", "topic", "repeated"},
		{"unknown too deep", "\x96\x05\x06\x07\xa1t\xc4\x00" + strings.Repeat("\x91", 200) + "\xc0", "", "nested deeper than 128"},
		{"json truncated", `{"publisher_id":5`, "", "invalid JSON"},
		{"json trailing", jsonTopic + `"event":1} 2`, "", "invalid JSON"},
		{"json missing id", `{}`, "publisher_id", "missing"},
		{"json missing event", jsonHead + `"topic":"t"}`, "event or payload", "missing"},
		{"json negative", `{"publisher_id":-5}`, "publisher_id", "got -5: want an integer"},
		{"json 2^64", `{"sequence":18446744073709551616}`, "sequence", "got 18446744073709551616"},
		{"json fraction", `{"sequence":1.0}`, "sequence", "got 1.0"},
		{"json string id", `{"sequence":"1"}`, "sequence", `got "1"`},
		{"json topic number", `{"topic":1}`, "topic", "got 1: want a string"},
		{"json topic bytes", "{\"topic\":\"\xff\"}", "", "invalid UTF-8"},
		{"json both", jsonTopic + `"event":1,"payload":""}`, "payload", "repeated"},
		{"json base64", jsonTopic + `"payload":"AQI"}`, "payload", "want the standard alphabet with padding"},
		{"json payload object", jsonTopic + `"payload":{}}`, "payload", "got {}: want base64"},
		{"json payload number", jsonTopic + `"payload":[1,256]}`, "payload", "element 1 is 256"},
		{"json too deep", jsonTopic + `"event":` + strings.Repeat("[", 128) + strings.Repeat("]", 128) + `}`, "", "nested deeper than 128"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			env := codec.Envelope{Topic: "before", Sequence: 1}
			err := env.Decode([]byte(c.wire))
			var format *codec.FormatError
			if !errors.As(err, &format) {
				t.Fatalf("got error %v, want a FormatError", err)
			}
			if format.Field != c.field || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %q about field %q, want %q about %q", err, format.Field, c.text, c.field)
			}
			if strings.Count(err.Error(), "codec:") != 1 {
				t.Errorf("%q names the package more than once", err)
			}
			if env.Topic != "before" || env.Sequence != 1 {
				t.Errorf("the envelope changed to %+v", env)
			}
		})
	}
}

func TestEnvelopeAppendErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		env   codec.Envelope
		codec codec.Codec
		text  string
	}{
		{"no codec", codec.Envelope{}, nil, "none given"},
		{"other codec", codec.Envelope{}, other{codec.JSON}, `"other"`},
		{"topic", codec.Envelope{Topic: "\xff", Payload: []byte("1")}, codec.Msgpack, "UTF-8"},
		{"no event", codec.Envelope{}, codec.JSON, "field event"},
		{"two events", codec.Envelope{Payload: []byte("1,2")}, codec.JSON, "field event"},
		{"injection", codec.Envelope{Payload: []byte(`1},{"a":2`)}, codec.JSON, "field event"},
		{"event not UTF-8", codec.Envelope{Payload: []byte("\"\xff\"")}, codec.JSON, "UTF-8"},
		{"deep event", codec.Envelope{Payload: []byte(strings.Repeat("[", 128) + strings.Repeat("]", 128))}, codec.JSON, "nested deeper"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := c.env.Append([]byte("kept"), c.codec)
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got error %v, want one with %q", err, c.text)
			}
			if string(got) != "kept" {
				t.Errorf("got buffer %q, want it as it was", got)
			}
		})
	}
}

type other struct{ codec.Codec }

func (other) Name() string { return "other" }

func TestEnvelopeReuseAllocatesNothing(t *testing.T) {
	env := codec.Envelope{PublisherID: 1 << 50, Sequence: 1 << 40, PublishedAt: 1 << 41, Topic: "kv-events", Payload: []byte(`{"a":[1,2,3]}`)}
	for _, c := range []codec.Codec{codec.JSON, codec.Msgpack} {
		wire, err := env.Append(nil, c)
		if err != nil {
			t.Fatal(err)
		}
		var back codec.Envelope
		n := testing.AllocsPerRun(100, func() {
			wire, _ = env.Append(wire[:0], c)
			if err := back.Decode(wire); err != nil {
				t.Fatal(err)
			}
		})
		if n > 0 {
			t.Errorf("%s: %.1f allocations for writing and reading, want none", c.Name(), n)
		}
	}
}
