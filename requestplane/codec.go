package requestplane

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// Codec is the encoding of a call's request and items. A server announces the one
// that it prefers in the field request_plane_codec of its instance; servers obey
// the codec of each request.
type Codec string

// The codecs. The zero Codec is JSON, as in Dynamo.
const (
	JSON    Codec = "json"
	Msgpack Codec = "msgpack"
)

// ParseCodec returns the codec of a name. The empty name is JSON.
func ParseCodec(name string) (Codec, error) {
	switch c := Codec(name); c {
	case "":
		return JSON, nil
	case JSON, Msgpack:
		return c, nil
	}
	return "", fmt.Errorf("requestplane: codec %q: want %s or %s", excerpt(name), JSON, Msgpack)
}

// Frames of an answer are a map with two fields. The item is between these.
var (
	prefixes = map[Codec]string{JSON: `{"data":`, Msgpack: "\x82\xa4data"}
	suffixes = map[Codec]string{JSON: `,"complete_final":false}`, Msgpack: "\xaecomplete_final\xc2"}
	finals   = map[Codec]string{JSON: `{"complete_final":true}`, Msgpack: "\x81\xaecomplete_final\xc3"}
)

// unwrap returns the item of a frame, nil if it has none, and whether it is final.
func (c Codec) unwrap(data []byte) (item []byte, final bool, err error) {
	if c == Msgpack {
		return unwrapMsgpack(data)
	}
	var w struct {
		Data  json.RawMessage `json:"data"`
		Final *bool           `json:"complete_final"`
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, false, err
	}
	if w.Final == nil {
		return nil, false, errors.New("no complete_final")
	}
	if bytes.Equal(w.Data, []byte("null")) {
		w.Data = nil
	}
	return w.Data, *w.Final, nil
}

var errMsgpack = errors.New("truncated, or not a map of strings to values")

func unwrapMsgpack(data []byte) (item []byte, final bool, err error) {
	kind, fields, pos := msgpackHead(data, 0)
	if pos < 0 || kind != kindMap {
		return nil, false, errMsgpack
	}
	var found bool
	for range fields {
		kind, n, start := msgpackHead(data, pos)
		if start < 0 || kind != kindBytes || n > uint64(len(data)-start) {
			return nil, false, errMsgpack
		}
		end := start + int(n)
		key := data[start:end]
		if pos = msgpackSkip(data, end); pos < 0 {
			return nil, false, errMsgpack
		}
		switch value := data[end:pos]; string(key) {
		case "data":
			if item = value; value[0] == 0xc0 {
				item = nil
			}
		case "complete_final":
			if found, final = true, value[0] == 0xc3; !final && value[0] != 0xc2 {
				return nil, false, errors.New("complete_final is no boolean")
			}
		}
	}
	if !found || pos != len(data) {
		return nil, false, errors.New("no complete_final, or bytes after it")
	}
	return item, final, nil
}

// Kinds of msgpack values, as far as skipping them requires.
const (
	kindBytes = iota // n bytes follow: scalars, strings, binaries, extensions
	kindArray        // n values follow
	kindMap          // n pairs follow
)

// msgpackHead returns the kind of the value at pos, its length, and the position
// after its head, which is -1 if there is no valid head.
func msgpackHead(data []byte, pos int) (kind int, n uint64, next int) {
	if pos >= len(data) {
		return 0, 0, -1
	}
	c := data[pos]
	pos++
	switch {
	case c <= 0x7f || c >= 0xe0 || c == 0xc0 || c == 0xc2 || c == 0xc3:
		return kindBytes, 0, pos
	case c <= 0x8f:
		return kindMap, uint64(c & 0x0f), pos
	case c <= 0x9f:
		return kindArray, uint64(c & 0x0f), pos
	case c <= 0xbf:
		return kindBytes, uint64(c & 0x1f), pos
	case c == 0xca || c == 0xcb: // floats
		return kindBytes, 4 << (c - 0xca), pos
	case c >= 0xcc && c <= 0xd3: // integers of 1, 2, 4 and 8 bytes
		return kindBytes, 1 << ((c - 0xcc) & 3), pos
	case c >= 0xd4 && c <= 0xd8: // extensions of fixed size, after their type
		return kindBytes, 1 + 1<<(c-0xd4), pos
	case c >= 0xc4 && c <= 0xc6: // binaries
		n, pos = msgpackLength(data, pos, 1<<(c-0xc4))
	case c >= 0xc7 && c <= 0xc9: // extensions, with their type
		n, pos = msgpackLength(data, pos, 1<<(c-0xc7))
		n++
	case c >= 0xd9 && c <= 0xdb: // strings
		n, pos = msgpackLength(data, pos, 1<<(c-0xd9))
	case c == 0xdc || c == 0xdd:
		kind = kindArray
		n, pos = msgpackLength(data, pos, 2<<(c-0xdc))
	case c == 0xde || c == 0xdf:
		kind = kindMap
		n, pos = msgpackLength(data, pos, 2<<(c-0xde))
	default: // 0xc1
		return 0, 0, -1
	}
	return kind, n, pos
}

// msgpackLength reads a length of size bytes.
func msgpackLength(data []byte, pos, size int) (n uint64, next int) {
	if size > len(data)-pos {
		return 0, -1
	}
	var buf [8]byte
	copy(buf[8-size:], data[pos:pos+size])
	return binary.BigEndian.Uint64(buf[:]), pos + size
}

// msgpackSkip returns the position after the value at pos, or -1. It counts the
// values that are still open, so that no nesting overflows a stack.
func msgpackSkip(data []byte, pos int) int {
	for open := uint64(1); open > 0; open-- {
		kind, n, next := msgpackHead(data, pos)
		if next < 0 {
			return -1
		}
		switch pos = next; kind {
		case kindBytes:
			if n > uint64(len(data)-pos) {
				return -1
			}
			pos += int(n)
		case kindMap:
			open += 2 * n
		case kindArray:
			open += n
		}
		if open > math.MaxInt32 { // values beyond any buffer
			return -1
		}
	}
	return pos
}
