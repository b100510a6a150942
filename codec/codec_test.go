package codec_test

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/codec"
)

func TestLookup(t *testing.T) {
	t.Parallel()
	for _, c := range []codec.Codec{codec.JSON, codec.Msgpack} {
		got, err := codec.Lookup(c.Name())
		if err != nil || got != c {
			t.Errorf("Lookup(%q) = %v, %v", c.Name(), got, err)
		}
	}
	for _, name := range []string{"", "JSON", "cbor"} {
		_, err := codec.Lookup(name)
		if !errors.Is(err, codec.ErrUnknown) || !strings.Contains(err.Error(), "want json or msgpack") {
			t.Errorf("Lookup(%q): %v", name, err)
		}
	}
}

type sample struct {
	ByJSON    string  `json:"by_json"`
	ByMsgpack uint64  `json:"not_this" msgpack:"by_msgpack"`
	Option    *uint32 `json:"option"`
	Omitted   string  `json:"omitted,omitempty"`
	Ignored   string  `json:"-"`
	Signed    int64   `json:"signed"`
	Bytes     []byte  `json:"bytes"`
	Plain     bool
}

func TestMsgpackStruct(t *testing.T) {
	t.Parallel()
	in := sample{ByJSON: "x", ByMsgpack: 200, Ignored: "gone", Signed: 5, Bytes: []byte{1}, Plain: true}
	got, err := codec.Msgpack.Append([]byte("kept"), in)
	if err != nil {
		t.Fatal(err)
	}
	const want = "kept\x86\xa7by_json\xa1x\xaaby_msgpack\xcc\xc8\xa6option\xc0\xa6signed\x05\xa5bytes\xc4\x01\x01\xa5Plain\xc3"
	if string(got) != want {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
	var back sample
	if err := codec.Msgpack.Unmarshal(got[4:], &back); err != nil {
		t.Fatal(err)
	}
	in.Ignored = ""
	if !reflect.DeepEqual(back, in) {
		t.Errorf("got %+v, want %+v", back, in)
	}
}

func TestJSONStruct(t *testing.T) {
	t.Parallel()
	in := struct {
		S string `json:"s"`
		N uint64 `json:"n"`
	}{"<&>", math.MaxUint64}
	got, err := codec.JSON.Append([]byte("kept"), in)
	if err != nil {
		t.Fatal(err)
	}
	if want := `kept{"s":"<&>","n":18446744073709551615}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Integers of all widths and signs are exact in an interface.
func TestIntegersIntoAny(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in      any
		msgpack any
		json    json.Number
	}{
		{0, int64(0), "0"},
		{127, int64(127), "127"},
		{128, uint64(128), "128"},
		{-1, int64(-1), "-1"},
		{-129, int64(-129), "-129"},
		{uint64(1<<53 + 1), uint64(1<<53 + 1), "9007199254740993"},
		{int64(math.MinInt64), int64(math.MinInt64), "-9223372036854775808"},
		{uint64(math.MaxUint64), uint64(math.MaxUint64), "18446744073709551615"},
	} {
		for cdc, want := range map[codec.Codec]any{codec.Msgpack: c.msgpack, codec.JSON: c.json} {
			data, err := cdc.Append(nil, map[string]any{"n": []any{c.in}})
			if err != nil {
				t.Fatal(err)
			}
			var got any = "what a reused variable may hold"
			if err := cdc.Unmarshal(data, &got); err != nil {
				t.Fatal(err)
			}
			if want := any(map[string]any{"n": []any{want}}); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: got %#v, want %#v", cdc.Name(), got, want)
			}
			var in struct {
				N []any `json:"n"`
			}
			if err := cdc.Unmarshal(data, &in); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(in.N, []any{want}) {
				t.Errorf("%s: got %#v, want %#v", cdc.Name(), in.N, want)
			}
		}
	}
}

func TestMsgpackOtherValuesIntoAny(t *testing.T) {
	t.Parallel()
	var got any
	if err := codec.Msgpack.Unmarshal(unhex(t, "96 c0 c3 ca 3fc00000 c4 01 ff a0 81 a16b 80"), &got); err != nil {
		t.Fatal(err)
	}
	want := any([]any{nil, true, 1.5, "\xff", "", map[string]any{"k": map[string]any{}}})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v, want %#v", got, want)
	}
}

func TestUnmarshalErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		codec      codec.Codec
		name, data string
		malformed  bool
		text       string
	}{
		{codec.Msgpack, "empty", "", true, "want a value"},
		{codec.Msgpack, "trailing", "\x01\x02", true, "1 bytes after the value"},
		{codec.Msgpack, "never used", "\xc1", true, "byte c1"},
		{codec.Msgpack, "ext", "\xd6\xff\x00\x00\x00\x00", true, "ext value"},
		{codec.Msgpack, "array key", "\x81\x90\x01", true, "map key of type array"},
		{codec.Msgpack, "another type", "\xa1x", false, "int"},
		{codec.JSON, "empty", "", true, "unexpected end"},
		{codec.JSON, "trailing", "1 2", true, "after top-level value"},
		{codec.JSON, "brackets", "]]]][[[[", true, "invalid character"},
		{codec.JSON, "another type", `"x"`, false, "int"},
		{codec.JSON, "too large", "1e99", false, "int"},
	} {
		t.Run(c.codec.Name()+" "+c.name, func(t *testing.T) {
			t.Parallel()
			var n int
			err := c.codec.Unmarshal([]byte(c.data), &n)
			var format *codec.FormatError
			if err == nil || errors.As(err, &format) != c.malformed || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %q, malformed %v", err, c.text, c.malformed)
			}
			if !c.malformed {
				return
			}
			var v any
			if err := c.codec.Unmarshal([]byte(c.data), &v); !errors.As(err, &format) {
				t.Errorf("into any: got %v, want a FormatError", err)
			}
		})
	}
	for _, c := range []codec.Codec{codec.JSON, codec.Msgpack} {
		for _, v := range []any{nil, 0, (*int)(nil)} {
			if err := c.Unmarshal([]byte("0"), v); err == nil {
				t.Errorf("%s into %#v: want an error", c.Name(), v)
			}
		}
	}
}

func TestAppendErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		codec codec.Codec
		v     any
	}{
		{codec.JSON, func() {}},
		{codec.JSON, math.NaN()},
		{codec.Msgpack, make(chan int)},
		{codec.Msgpack, []any{"partly", make(chan int)}},
		{codec.Msgpack, nested(200)},
		{codec.Msgpack, struct{ At time.Time }{time.Unix(1, 0)}}, // ext
		{codec.Msgpack, map[[2]int]int{{1, 2}: 3}},
	} {
		got, err := c.codec.Append([]byte("kept"), c.v)
		if err == nil || string(got) != "kept" || strings.Count(err.Error(), "codec:") != 1 {
			t.Errorf("%s of %T: got %q and error %v", c.codec.Name(), c.v, got, err)
		}
	}
}

func nested(depth int) any {
	var v any
	for range depth {
		v = []any{v}
	}
	return v
}
