package kvevents

import (
	"encoding/binary"
	"math"
)

// maxDepth is the number of levels that a value may be nested, as in package codec.
const maxDepth = 128

// kind is the type of a msgpack value, without its width.
type kind uint8

const (
	kindInvalid kind = iota // the byte c1
	kindNil
	kindBool
	kindUint
	kindInt // any width, and negative unless an encoder wastes bytes
	kindFloat
	kindStr
	kindBin
	kindExt
	kindArray
	kindMap
)

// sizes is the size of the values whose first byte determines it, and 0 for others.
// The invalid byte c1 is a value of size 1: the event that contains it is invalid,
// not the events around it.
var sizes = func() (t [256]uint8) {
	for c := range t {
		switch {
		case c <= 0x7f || c >= 0xe0 || c >= 0xc0 && c <= 0xc3:
			t[c] = 1
		case c >= 0xa0 && c <= 0xbf: // fixstr
			t[c] = uint8(1 + c&0x1f)
		case c >= 0xcc && c <= 0xcf: // uint
			t[c] = 1 + 1<<(c-0xcc)
		case c >= 0xd0 && c <= 0xd3: // int
			t[c] = 1 + 1<<(c-0xd0)
		case c == 0xca || c == 0xcb: // float
			t[c] = 1 + 4<<(c-0xca)
		case c >= 0xd4 && c <= 0xd8: // fixext
			t[c] = 2 + 1<<(c-0xd4)
		}
	}
	return t
}()

// scan returns the end of the value at data[pos], at any depth and without memory
// that depends on it. It checks every length and count against the input, so that
// a reader of the value needs no further checks.
func scan(data []byte, pos int) (int, error) {
	for left := 1; left > 0; left-- {
		if pos >= len(data) {
			return pos, &DecodeError{Reason: ReasonTruncated, Offset: len(data), Want: "a value"}
		}
		// The commonest values have branches of their own, which the processor can
		// predict, whereas it would have to wait for the table.
		switch c := data[pos]; {
		case c <= 0x7f:
			pos++
			continue
		case c == 0xcd:
			pos += 3
			continue
		case c == 0xce:
			pos += 5
			continue
		case c == 0xcf:
			pos += 9
			continue
		case sizes[c] != 0:
			pos += int(sizes[c])
			continue
		}
		body, n, ok := length(data, pos)
		children := 0
		switch kindOf(data[pos]) {
		case kindArray:
			children, n = n, 0
		case kindMap:
			children, n = 2*n, 0
		}
		// Each value that has not begun takes a byte at least.
		if !ok || n > len(data)-body || children > len(data)-body-left+1 {
			return pos, &DecodeError{Reason: ReasonTruncated, Offset: pos, Want: "a length within the input"}
		}
		pos = body + n
		left += children
	}
	if pos > len(data) {
		return pos, &DecodeError{Reason: ReasonTruncated, Offset: len(data), Want: "the rest of a value"}
	}
	return pos, nil
}

// scanAll checks that data is exactly one value.
func scanAll(data []byte) error {
	end, err := scan(data, 0)
	if err == nil && end != len(data) {
		err = &DecodeError{Reason: ReasonTrailing, Offset: end, Want: "no bytes after the value"}
	}
	return err
}

// length returns the length of the variable value at data[pos] and where its body
// begins: bytes of a string, bin or ext, elements of an array, or pairs of a map.
func length(data []byte, pos int) (body, n int, ok bool) {
	c := data[pos]
	width, extra := 0, 0
	switch {
	case c <= 0x8f:
		return pos + 1, int(c & 0x0f), true
	case c <= 0x9f:
		return pos + 1, int(c & 0x0f), true
	case c <= 0xc6:
		width = 1 << (c - 0xc4)
	case c <= 0xc9:
		width, extra = 1<<(c-0xc7), 1
	case c <= 0xdb:
		width = 1 << (c - 0xd9)
	case c <= 0xdd:
		width = 2 << (c - 0xdc)
	default:
		width = 2 << (c - 0xde)
	}
	body = pos + 1 + width
	if body > len(data) {
		return body, 0, false
	}
	v := bigEndian(data[pos+1 : body])
	if v > math.MaxInt32/2 {
		return body, 0, false
	}
	return body, int(v) + extra, true
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

// kindOf returns the kind of the value whose first byte is c.
func kindOf(c byte) kind {
	switch {
	case c <= 0x7f, c >= 0xcc && c <= 0xcf:
		return kindUint
	case c <= 0x8f, c == 0xde, c == 0xdf:
		return kindMap
	case c <= 0x9f, c == 0xdc, c == 0xdd:
		return kindArray
	case c <= 0xbf, c >= 0xd9 && c <= 0xdb:
		return kindStr
	case c == 0xc0:
		return kindNil
	case c == 0xc1:
		return kindInvalid
	case c <= 0xc3:
		return kindBool
	case c <= 0xc6:
		return kindBin
	case c <= 0xc9, c >= 0xd4 && c <= 0xd8:
		return kindExt
	case c <= 0xcb:
		return kindFloat
	}
	return kindInt
}

// reader reads values that scan has checked. Methods that fail leave pos where the
// value begins.
type reader struct {
	data []byte
	pos  int
}

func (r *reader) kind() kind { return kindOf(r.data[r.pos]) }

// skip skips a value.
func (r *reader) skip() {
	r.pos, _ = scan(r.data, r.pos)
}

// nil skips a nil and reports whether there was one.
func (r *reader) nil() bool {
	if r.data[r.pos] != 0xc0 {
		return false
	}
	r.pos++
	return true
}

// array reads the head of an array.
func (r *reader) array() (n int, ok bool) {
	if r.kind() != kindArray {
		return 0, false
	}
	r.pos, n, _ = length(r.data, r.pos)
	return n, true
}

// object reads the head of a map.
func (r *reader) object() (n int, ok bool) {
	if r.kind() != kindMap {
		return 0, false
	}
	r.pos, n, _ = length(r.data, r.pos)
	return n, true
}

// uint reads an integer that is not negative.
func (r *reader) uint() (uint64, bool) {
	begin := r.pos
	v, negative, ok := r.int()
	if negative {
		r.pos = begin
	}
	return v, ok && !negative
}

// int reads an integer as two's complement.
func (r *reader) int() (v uint64, negative, ok bool) {
	c := r.data[r.pos]
	switch {
	case c <= 0x7f:
		r.pos++
		return uint64(c), false, true
	case c >= 0xe0:
		r.pos++
		return uint64(int64(int8(c))), true, true
	case c < 0xcc || c > 0xd3:
		return 0, false, false
	}
	end := r.pos + int(sizes[c])
	v = bigEndian(r.data[r.pos+1 : end])
	if c >= 0xd0 {
		shift := 64 - 8*(end-r.pos-1)
		v = uint64(int64(v<<shift) >> shift)
		negative = int64(v) < 0
	}
	r.pos = end
	return v, negative, true
}

// bytes reads a str or bin; it shares memory with the data.
func (r *reader) bytes(want kind) ([]byte, bool) {
	c := r.data[r.pos]
	if kindOf(c) != want {
		return nil, false
	}
	body, n := r.pos+1, int(c&0x1f)
	if c > 0xbf {
		body, n, _ = length(r.data, r.pos)
	}
	r.pos = body + n
	return r.data[body:r.pos:r.pos], true
}

// float reads a float or an integer.
func (r *reader) float() (float64, bool) {
	switch c := r.data[r.pos]; c {
	case 0xca:
		r.pos += 5
		return float64(math.Float32frombits(binary.BigEndian.Uint32(r.data[r.pos-4:]))), true
	case 0xcb:
		r.pos += 9
		return math.Float64frombits(binary.BigEndian.Uint64(r.data[r.pos-8:])), true
	}
	v, negative, ok := r.int()
	if negative {
		return float64(int64(v)), ok
	}
	return float64(v), ok
}

// raw reads any value, which must not contain the byte c1 and must not be nested
// deeper than maxDepth levels.
func (r *reader) raw() ([]byte, Reason) {
	begin := r.pos
	if reason := r.check(maxDepth); reason != 0 {
		r.pos = begin
		return nil, reason
	}
	return r.data[begin:r.pos:r.pos], 0
}

// check is raw for a value at a depth, without the value.
func (r *reader) check(depth int) Reason {
	k := r.kind()
	children := 0
	switch k {
	case kindInvalid:
		return ReasonSyntax
	case kindArray:
		children, _ = r.array()
	case kindMap:
		children, _ = r.object()
		children *= 2
	default:
		r.skip()
		return 0
	}
	if depth == 0 {
		return ReasonDepth
	}
	for range children {
		if reason := r.check(depth - 1); reason != 0 {
			return reason
		}
	}
	return 0
}
