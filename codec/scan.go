package codec

import (
	"encoding/binary"
	"fmt"
)

// maxDepth is the number of levels that arrays and maps may be nested, in both
// codecs. The deepest event of the protocol has nine.
const maxDepth = 128

// kind is the type of a msgpack value, without its width.
type kind uint8

const (
	kindNil kind = iota
	kindBool
	kindUint // positive fixint and uint 8 to 64
	kindInt  // negative fixint and int 8 to 64, whatever the sign of the value
	kindFloat
	kindStr
	kindBin
	kindExt
	kindArray
	kindMap
)

func (k kind) String() string {
	return [...]string{"nil", "bool", "uint", "int", "float", "str", "bin", "ext", "array", "map"}[k]
}

// head is the start of a msgpack value: its type and length.
type head struct {
	kind kind
	body int // offset of the first byte after the head
	n    int // elements of an array, pairs of a map, or bytes of the body, to which the type of an ext belongs
}

// end returns the offset after the value. It is invalid for arrays and maps.
func (h head) end() int { return h.body + h.n }

func (h head) isContainer() bool { return h.kind == kindArray || h.kind == kindMap }

// readHead reads the head at data[pos]. It checks that data has the whole body, or
// at least one byte for each element.
func readHead(data []byte, pos int) (head, error) {
	if pos >= len(data) {
		return head{}, malformed(pos, "input ends: want a value")
	}
	c := data[pos]
	body := pos + 1
	switch {
	case c <= 0x7f:
		return head{kind: kindUint, body: body}, nil
	case c <= 0x8f:
		return checked(data, head{kindMap, body, int(c & 0x0f)})
	case c <= 0x9f:
		return checked(data, head{kindArray, body, int(c & 0x0f)})
	case c <= 0xbf:
		return checked(data, head{kindStr, body, int(c & 0x1f)})
	case c == 0xc0:
		return head{kind: kindNil, body: body}, nil
	case c == 0xc1:
		return head{}, malformed(pos, "invalid type byte c1")
	case c <= 0xc3:
		return head{kind: kindBool, body: body}, nil
	case c <= 0xc6:
		return sized(data, kindBin, body, 1<<(c-0xc4), 0)
	case c <= 0xc9:
		return sized(data, kindExt, body, 1<<(c-0xc7), 1)
	case c <= 0xcb:
		return checked(data, head{kindFloat, body, 4 << (c - 0xca)})
	case c <= 0xcf:
		return checked(data, head{kindUint, body, 1 << (c - 0xcc)})
	case c <= 0xd3:
		return checked(data, head{kindInt, body, 1 << (c - 0xd0)})
	case c <= 0xd8:
		return checked(data, head{kindExt, body, 1<<(c-0xd4) + 1})
	case c <= 0xdb:
		return sized(data, kindStr, body, 1<<(c-0xd9), 0)
	case c <= 0xdd:
		return sized(data, kindArray, body, 2<<(c-0xdc), 0)
	case c <= 0xdf:
		return sized(data, kindMap, body, 2<<(c-0xde), 0)
	default:
		return head{kind: kindInt, body: body}, nil
	}
}

// sized reads a length of width bytes at data[pos]. The body is longer than that
// by extra bytes.
func sized(data []byte, k kind, pos, width, extra int) (head, error) {
	if len(data)-pos < width {
		return head{}, malformed(pos, "input ends within the %s length", k)
	}
	return checked(data, head{k, pos + width, int(bigEndian(data[pos:pos+width])) + extra})
}

// checked returns an error if the body of h does not fit data.
func checked(data []byte, h head) (head, error) {
	// A length above 2³¹ is negative where int has 32 bits.
	if uint(h.n) > uint(len(data)-h.body) || h.kind == kindMap && 2*h.n > len(data)-h.body {
		return head{}, tooLong(data, h)
	}
	return h, nil
}

// tooLong returns the error for a body that does not fit data.
func tooLong(data []byte, h head) error {
	unit := "bytes"
	switch h.kind {
	case kindArray:
		unit = "elements"
	case kindMap:
		unit = "pairs"
	}
	return malformed(h.body, "%s of %d %s: only %d bytes are left", h.kind, uint32(h.n), unit, len(data)-h.body)
}

// bigEndian reads an unsigned integer of 1, 2, 4 or 8 bytes.
func bigEndian(b []byte) uint64 {
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.BigEndian.Uint16(b))
	case 4:
		return uint64(binary.BigEndian.Uint32(b))
	default:
		return binary.BigEndian.Uint64(b)
	}
}

// census holds the numbers of values in a message.
type census struct {
	values int // including containers and map keys
	maps   int
}

// scan checks the msgpack value at data[pos] and returns where it ends.
//
// A strict scan also rejects values that are well formed but unsafe to pass to the
// msgpack library: the library would look for a map inside an ext value, at an
// offset that has not been checked, and it panics on map keys that Go cannot hash.
func scan(data []byte, pos int, strict bool) (end int, total census, err error) {
	type level struct {
		left  int // values that have not begun
		isMap bool
	}
	var open [maxDepth]level
	for depth := 0; ; {
		h, err := readHead(data, pos)
		if err != nil {
			return pos, total, err
		}
		isKey := false
		if depth > 0 {
			top := &open[depth-1]
			isKey = top.isMap && top.left%2 == 0
			top.left--
		}
		if strict {
			if err := checkStrict(pos, h, isKey); err != nil {
				return pos, total, err
			}
		}
		total.values++
		switch {
		case !h.isContainer():
			pos = h.end()
		case depth == maxDepth:
			return pos, total, malformed(pos, "nested deeper than %d levels", maxDepth)
		case h.kind == kindArray:
			open[depth] = level{left: h.n}
			pos, depth = h.body, depth+1
		default:
			total.maps++
			open[depth] = level{left: 2 * h.n, isMap: true}
			pos, depth = h.body, depth+1
		}
		for depth > 0 && open[depth-1].left == 0 {
			depth--
		}
		if depth == 0 {
			return pos, total, nil
		}
	}
}

// checkStrict returns an error for the values that only a strict scan rejects.
func checkStrict(pos int, h head, isKey bool) error {
	switch {
	case h.kind == kindExt:
		return malformed(pos, "ext value: want times as integers or strings and no other ext types")
	case isKey && h.isContainer():
		return malformed(pos, "map key of type %s: want a scalar", h.kind)
	}
	return nil
}

// scanAll scans data, which must be exactly one value.
func scanAll(data []byte, strict bool) (census, error) {
	end, total, err := scan(data, 0, strict)
	if err == nil && end != len(data) {
		err = malformed(end, "%d bytes after the value: want none", len(data)-end)
	}
	return total, err
}

// malformed returns a FormatError of msgpack.
func malformed(offset int, format string, args ...any) error {
	return &FormatError{Format: "msgpack", Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

// uint returns the value of a non-negative integer, and false for other values.
func (h head) uint(data []byte) (uint64, bool) {
	switch {
	case h.kind == kindUint && h.n == 0:
		return uint64(data[h.body-1]), true
	case h.kind == kindUint:
		return bigEndian(data[h.body:h.end()]), true
	case h.kind == kindInt:
		v := h.int(data)
		return uint64(v), v >= 0
	}
	return 0, false
}

// int returns the value of an integer of kind kindInt.
func (h head) int(data []byte) int64 {
	switch h.n {
	case 0:
		return int64(int8(data[h.body-1]))
	case 1:
		return int64(int8(data[h.body]))
	case 2:
		return int64(int16(bigEndian(data[h.body:h.end()])))
	case 4:
		return int64(int32(bigEndian(data[h.body:h.end()])))
	default:
		return int64(bigEndian(data[h.body:h.end()]))
	}
}

// describe describes the value in an error message: an integer by its value, any
// other value by its type.
func (h head) describe(data []byte) string {
	if v, ok := h.uint(data); ok {
		return fmt.Sprint(v)
	}
	if h.kind == kindInt {
		return fmt.Sprint(h.int(data))
	}
	return h.kind.String()
}
