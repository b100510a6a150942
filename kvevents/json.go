package kvevents

import (
	"encoding/binary"
	"encoding/json"
	"strconv"
)

// appendMsgpack appends the msgpack form of a JSON text to dst. Integers are exact.
// All decoders of this package read msgpack; JSON is rare, and takes this detour.
func appendMsgpack(dst, text []byte) ([]byte, error) {
	t := jsonReader{text: text, w: writer{dst}}
	if !json.Valid(text) {
		return dst, &DecodeError{Reason: ReasonSyntax, Want: "one value of valid JSON"}
	}
	if !t.value(maxDepth) {
		return dst, &DecodeError{Reason: t.reason, Offset: t.pos, Want: "JSON of at most 128 levels, with integers of 64 bits"}
	}
	return t.w.b, nil
}

// jsonReader converts text, which is valid JSON.
type jsonReader struct {
	text   []byte
	pos    int
	w      writer
	reason Reason
}

// space skips white space, commas and colons. The text is valid, so they are where
// they belong.
func (t *jsonReader) space() byte {
	for {
		switch c := t.text[t.pos]; c {
		case ' ', '\t', '\r', '\n', ',', ':':
			t.pos++
		default:
			return c
		}
	}
}

func (t *jsonReader) value(depth int) bool {
	switch t.space() {
	case '{':
		return t.container(depth, '}', 0xdf)
	case '[':
		return t.container(depth, ']', 0xdd)
	case '"':
		return t.string()
	case 't':
		t.pos += 4
		t.w.bool(true)
	case 'f':
		t.pos += 5
		t.w.bool(false)
	case 'n':
		t.pos += 4
		t.w.nil()
	default:
		return t.number()
	}
	return true
}

// container converts an object or array. Its count follows only after it.
func (t *jsonReader) container(depth int, closing, code byte) bool {
	if depth == 0 {
		t.reason = ReasonDepth
		return false
	}
	t.pos++
	head := len(t.w.b)
	t.w.b = append(t.w.b, code, 0, 0, 0, 0)
	n := uint32(0)
	for ; t.space() != closing; n++ {
		if closing == '}' && !t.string() || !t.value(depth-1) {
			return false
		}
	}
	t.pos++
	binary.BigEndian.PutUint32(t.w.b[head+1:], n)
	return true
}

func (t *jsonReader) string() bool {
	t.space()
	begin, escaped := t.pos, false
	for t.pos++; t.text[t.pos] != '"'; t.pos++ {
		if t.text[t.pos] == '\\' {
			escaped = true
			t.pos++
		}
	}
	t.pos++
	if !escaped {
		t.w.string(string(t.text[begin+1 : t.pos-1]))
		return true
	}
	var s string
	if err := json.Unmarshal(t.text[begin:t.pos], &s); err != nil {
		t.reason = ReasonSyntax
		return false
	}
	t.w.string(s)
	return true
}

func (t *jsonReader) number() bool {
	begin, integer := t.pos, true
	for ; t.pos < len(t.text); t.pos++ {
		switch c := t.text[t.pos]; {
		case c == '.' || c == 'e' || c == 'E':
			integer = false
			continue
		case c >= '0' && c <= '9' || c == '-' || c == '+':
			continue
		}
		break
	}
	s := string(t.text[begin:t.pos])
	if integer {
		if v, err := strconv.ParseUint(s, 10, 64); err == nil {
			t.w.uint(v)
			return true
		}
		if v, err := strconv.ParseInt(s, 10, 64); err == nil {
			t.w.int(v)
			return true
		}
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.reason, t.pos = ReasonRange, begin
		return false
	}
	t.w.float(v)
	return true
}
