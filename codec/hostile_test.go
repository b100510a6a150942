package codec_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/codec"
)

const hostileSize = 3 << 20

// hostile has inputs that are malformed, or well formed but expensive.
func hostile() map[string][]byte {
	fill := func(head, unit string) []byte {
		b := []byte(head)
		return append(b, bytes.Repeat([]byte(unit), (hostileSize-len(head))/len(unit))...)
	}
	array := func(unit string) []byte {
		n := (hostileSize - 5) / len(unit)
		return fill(string(binary.BigEndian.AppendUint32([]byte{0xdd}, uint32(n))), unit)
	}
	list := func(unit string) []byte {
		return append(fill("["+unit, ","+unit), ']')
	}
	return map[string][]byte{
		"array of 2^32":               []byte("\xdd\xff\xff\xff\xff"),
		"map of 2^32":                 []byte("\xdf\xff\xff\xff\xff"),
		"map of 2^31":                 []byte("\xdf\x80\x00\x00\x00"),
		"str of 2^32":                 []byte("\xdb\xff\xff\xff\xff"),
		"bin of 2^32":                 []byte("\xc6\xff\xff\xff\xff"),
		"ext of 2^32":                 []byte("\xc9\xff\xff\xff\xff\x01"),
		"deep arrays":                 bytes.Repeat([]byte("\x91"), 2_000_000),
		"deep maps":                   bytes.Repeat([]byte("\x81\xa0"), 1_000_000),
		"deep keys":                   bytes.Repeat([]byte("\x81"), 2_000_000),
		"array within a triple":       []byte("\x93\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xdd\xff\xff\xff\xff"),
		"ext: map within an ext":      []byte("\xc7\x05\x00\xdf\xff\xff\xff\xff"),
		"ext: map within a timestamp": []byte("\xd7\xff\xdf\xff\xff\xff\xff\x00\x00\x00"),
		"ext: array within a value":   []byte("\x81\xa1a\x81\xa1b\xd7\xff\x81\xa0\xdd\xff\xff\xff\xff\x00"),
		"key without a hash":          []byte("\x81\x91\x01\x01"),
		"ever wider":                  bytes.Repeat([]byte("\xdd\x00\x10\x00\x00"), 100),
		"many nils":                   array("\xc0"),
		"many empty maps":             array("\x80"),
		"many empty arrays":           array("\x90"),
		"many small maps":             array("\x81\xa0\xc0"),
		"many nested maps":            array("\x81\xa0\x81\xa0\xc0"),
		"many empty strings":          array("\xa0"),
		"many numbers":                array("\x01"),
		"long str":                    fill("\xdb\x00\x2f\xff\xfb", "\x00"),
		"json deep arrays":            bytes.Repeat([]byte("["), 2_000_000),
		"json deep objects":           bytes.Repeat([]byte(`{"":`), 500_000),
		"json many numbers":           list("0"),
		"json many nulls":             list("null"),
		"json many objects":           list("{}"),
		"json many small maps":        list(`{"":0}`),
		"json long string":            append(fill(`"`, `\u0000`), '"'),
		"json open string":            fill(`{"`, `\"`),
		"json payload of bytes":       append(append([]byte(`{"payload":`), list("0")...), '}'),
		"payload of ints":             append([]byte("\x95\x05\x06\x07\xa1t"), array("\x01")...),
	}
}

// wide is a type whose values take much more memory than bytes on the wire.
type wide struct {
	A [32]uint64     `json:"a"`
	B map[string]any `json:"b"`
	C *wide          `json:"c"`
	D map[string][8]string
}

// Memory is proportional to the size of the input, not to the lengths that it
// declares or to the memory that its shape can take.
func TestHostileInputMemory(t *testing.T) {
	const limit = 300 << 20 // total of all allocations, not the memory in use at once
	type target struct {
		name   string
		decode func([]byte) error
	}
	large := []target{ // tried with everything
		{"envelope", func(b []byte) error { return new(codec.Envelope).Decode(b) }},
		{"text", func(b []byte) error { _, err := codec.AppendJSON(nil, b); return err }},
	}
	small := large // tried with short input only, for time's sake
	for _, c := range []codec.Codec{codec.Msgpack, codec.JSON} {
		into := func(fresh func() any) target {
			return target{fmt.Sprintf("%s into %T", c.Name(), fresh()), func(b []byte) error { return c.Unmarshal(b, fresh()) }}
		}
		large = append(large,
			into(func() any { return new(any) }),
			into(func() any { return new([]wide) }))
		small = append(small,
			into(func() any { return new(map[string]any) }),
			into(func() any { return new(map[any]any) }),
			into(func() any { return new([]*wide) }),
			into(func() any { return new([]map[string]string) }),
			into(func() any { return new(routerEvent) }),
			into(func() any { return new([]string) }))
	}
	small = append(small, large...)
	for shape, data := range hostile() {
		targets := large
		if len(data) < 1000 {
			targets = small
		}
		for _, target := range targets {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := target.decode(data)
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; used > limit {
				t.Errorf("%s, %s: %d MiB allocated, want at most %d (error %v)", shape, target.name, used>>20, limit>>20, err)
			}
			printable := target.name == "text" && strings.HasPrefix(shape, "ext:")
			if len(data) < 1000 && err == nil && !printable {
				t.Errorf("%s, %s: want an error", shape, target.name)
			}
		}
	}
}

// Input that a scan rejects costs no more than the error.
func TestHostileInputAllocations(t *testing.T) {
	for shape, data := range hostile() {
		if !strings.Contains(shape, "2^3") && !strings.Contains(shape, "deep") {
			continue
		}
		var v any
		n := testing.AllocsPerRun(1, func() {
			var format *codec.FormatError
			if err := codec.Msgpack.Unmarshal(data, &v); !errors.As(err, &format) {
				t.Errorf("%s: got %v, want a FormatError", shape, err)
			}
		})
		if n > 12 {
			t.Errorf("%s: %.0f allocations for an error", shape, n)
		}
	}
}

// Large messages that are valid are decoded.
func TestLargeMessages(t *testing.T) {
	t.Parallel()
	tokens := make([]uint32, 500_000)
	for i := range tokens {
		tokens[i] = uint32(i)
	}
	events := make([]routerEvent, 128)
	for i := range events {
		events[i] = storedEvent(64)
	}
	for _, c := range []codec.Codec{codec.JSON, codec.Msgpack} {
		for _, v := range []any{tokens, events, strings.Repeat("x", 20<<20)} {
			data, err := c.Append(nil, v)
			if err != nil {
				t.Fatal(err)
			}
			var back any
			if err := c.Unmarshal(data, &back); err != nil {
				t.Errorf("%s, %d bytes of %T: %v", c.Name(), len(data), v, err)
			}
		}
	}
}
