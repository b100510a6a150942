package codec_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/dynplane/dynplane/codec"
)

// addSeeds adds the hostile inputs that are short enough to be worth mutating, and
// valid ones.
func addSeeds(f *testing.F) {
	f.Helper()
	for _, b := range hostile() {
		f.Add(b[:min(len(b), 1000)])
	}
	for _, v := range readVectors(f) {
		f.Add(v.wire)
		v.env.Bytes = true
		text, err := v.env.Append(nil, codec.JSON)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, c := range []codec.Codec{codec.JSON, codec.Msgpack} {
		for _, v := range []any{storedEvent(2), map[string]any{"a": []any{nil, true, 1.5, "x", -1, int64(1 << 40)}}} {
			b, err := c.Append(nil, v)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Add([]byte("\x95\x05\x06\x07\xa2ab\x92\x01\xcc\x02"))
	f.Add([]byte(`{"publisher_id":5,"sequence":6,"published_at":7,"topic":"\u00e4","event":{"a":[1]},"x":"\""}`))
}

// An envelope that can be decoded can be encoded, and decodes to the same.
func FuzzEnvelopeDecode(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		var env codec.Envelope
		if err := env.Decode(data); err != nil {
			if !reflect.DeepEqual(env, codec.Envelope{}) {
				t.Fatalf("error %v, but the envelope changed: %+v", err, env)
			}
			return
		}
		wire, err := env.Append(nil, env.Codec)
		if err != nil {
			t.Fatalf("writing %+v: %v", env, err)
		}
		var back codec.Envelope
		if err := back.Decode(wire); err != nil {
			t.Fatalf("reading %q: %v", wire, err)
		}
		if !reflect.DeepEqual(back, env) {
			t.Fatalf("got %+v, want %+v", back, env)
		}
	})
}

// Nothing panics, and a value that can be decoded into an interface can be encoded.
func FuzzUnmarshal(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, c := range []codec.Codec{codec.Msgpack, codec.JSON} {
			var v any
			if err := c.Unmarshal(data, &v); err == nil {
				again, err := c.Append(nil, v)
				if err != nil {
					t.Fatalf("%s: writing %#v: %v", c.Name(), v, err)
				}
				if err := c.Unmarshal(again, &v); err != nil {
					t.Fatalf("%s: reading %q: %v", c.Name(), again, err)
				}
			}
			for _, p := range []any{new([]wide), new(map[any]any), new(map[string]any), new([]string), new(routerEvent), new([]routerEvent)} {
				_ = c.Unmarshal(data, p)
			}
		}
	})
}

// The output is JSON, and about six times as long as the input at most.
func FuzzAppendJSON(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		text, err := codec.AppendJSON(nil, data)
		if err != nil {
			return
		}
		if !json.Valid(text) {
			t.Fatalf("%x gives %q, which is no JSON", data, text)
		}
		if len(text) > 20*len(data)+20 {
			t.Fatalf("%d bytes give %d", len(data), len(text))
		}
	})
}
