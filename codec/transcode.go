package codec

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// AppendJSON appends the JSON text of one msgpack value to dst and returns the
// extended buffer. It builds no Go values, so memory grows only with the text,
// which is about six times as long as the value at most.
//
// Integers are exact. NaN and the infinities become null. Bin becomes a string of
// standard base64, and an ext value {"ext":TYPE,"data":BASE64}. Bytes of a string
// that are not UTF-8 become U+FFFD. A map key that is not a string becomes its
// JSON text in quotes.
//
// If the input is not exactly one well-formed value, or a map key is an array, a
// map or an ext value, AppendJSON returns a *[FormatError], and dst unchanged.
func AppendJSON(dst, msgpackValue []byte) ([]byte, error) {
	if _, err := scanAll(msgpackValue, false); err != nil {
		return dst, err
	}
	t := transcoder{data: msgpackValue, out: dst}
	if err := t.value(); err != nil {
		return dst, err
	}
	return t.out, nil
}

// transcoder converts data, which has been scanned, to JSON in out.
type transcoder struct {
	data []byte
	pos  int
	out  []byte
}

// value converts the value at pos. It recurses, at most as deep as scan permits.
func (t *transcoder) value() error {
	h, err := readHead(t.data, t.pos)
	if err != nil {
		return err
	}
	switch h.kind {
	case kindArray:
		return t.array(h)
	case kindMap:
		return t.object(h)
	}
	t.scalar(h)
	return nil
}

func (t *transcoder) array(h head) error {
	t.pos = h.body
	t.out = append(t.out, '[')
	for i := range h.n {
		if i > 0 {
			t.out = append(t.out, ',')
		}
		if err := t.value(); err != nil {
			return err
		}
	}
	t.out = append(t.out, ']')
	return nil
}

func (t *transcoder) object(h head) error {
	t.pos = h.body
	t.out = append(t.out, '{')
	for i := range h.n {
		if i > 0 {
			t.out = append(t.out, ',')
		}
		if err := t.key(); err != nil {
			return err
		}
		t.out = append(t.out, ':')
		if err := t.value(); err != nil {
			return err
		}
	}
	t.out = append(t.out, '}')
	return nil
}

// key converts a map key. A key must not be a container: each level of keys would
// double the backslashes of the level below.
func (t *transcoder) key() error {
	h, err := readHead(t.data, t.pos)
	switch {
	case err != nil:
		return err
	case h.isContainer() || h.kind == kindExt:
		return malformed(t.pos, "map key of type %s: want a scalar", h.kind)
	case h.kind == kindStr || h.kind == kindBin:
		t.scalar(h)
	default:
		t.out = append(t.out, '"')
		t.scalar(h)
		t.out = append(t.out, '"')
	}
	return nil
}

// scalar converts a value that is not a container.
func (t *transcoder) scalar(h head) {
	body := t.data[h.body:h.end()]
	switch h.kind {
	case kindNil:
		t.out = append(t.out, "null"...)
	case kindBool:
		t.out = strconv.AppendBool(t.out, t.data[t.pos] == 0xc3)
	case kindUint:
		v, _ := h.uint(t.data)
		t.out = strconv.AppendUint(t.out, v, 10)
	case kindInt:
		t.out = strconv.AppendInt(t.out, h.int(t.data), 10)
	case kindFloat:
		t.out = appendFloat(t.out, body)
	case kindStr:
		t.out = appendString(t.out, body)
	case kindBin:
		t.out = appendBase64(t.out, body)
	case kindExt:
		t.out = append(t.out, `{"ext":`...)
		t.out = strconv.AppendInt(t.out, int64(int8(body[0])), 10)
		t.out = append(t.out, `,"data":`...)
		t.out = appendBase64(t.out, body[1:])
		t.out = append(t.out, '}')
	}
	t.pos = h.end()
}

func appendBase64(dst, b []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}

// appendFloat appends the shortest text that parses as the same float of 4 or 8
// bytes, in the notation of encoding/json.
func appendFloat(dst, b []byte) []byte {
	v, bits := 0.0, 8*len(b)
	if bits == 32 {
		v = float64(math.Float32frombits(uint32(bigEndian(b))))
	} else {
		v = math.Float64frombits(bigEndian(b))
	}
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(dst, "null"...)
	}
	notation := byte('f')
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) {
		notation = 'e'
	}
	return strconv.AppendFloat(dst, v, notation, -1, bits)
}

// appendString appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			dst = appendASCII(dst, c)
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		dst = utf8.AppendRune(dst, r)
		i += size
	}
	return append(dst, '"')
}

// appendASCII escapes the characters that JSON requires to be escaped, and DEL.
func appendASCII(dst []byte, c byte) []byte {
	switch {
	case c == '"' || c == '\\':
		return append(dst, '\\', c)
	case c == '\n':
		return append(dst, '\\', 'n')
	case c == '\t':
		return append(dst, '\\', 't')
	case c == '\r':
		return append(dst, '\\', 'r')
	case c < ' ' || c == 0x7f:
		return fmt.Appendf(dst, "\\u%04x", c)
	default:
		return append(dst, c)
	}
}
