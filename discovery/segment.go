package discovery

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const upperHex = "0123456789ABCDEF"

// EncodeSegment encodes a name as one segment of a subject or of an event
// channel's key: bytes outside [A-Za-z0-9_-] become %XX. Dynamo's newer generation
// does the same; the older one does not encode, which makes no difference to names
// without such bytes.
func EncodeSegment(name string) string { return escape(name, '%', isPlain) }

// DecodeSegment is the inverse of EncodeSegment. It returns an error for an
// incomplete or invalid escape, and for a name that is not UTF-8.
func DecodeSegment(s string) (string, error) { return unescape(s, '%') }

// Paths separate names by slashes, and escape nothing but those and '%'.
func escapePath(name string) string {
	return escape(name, '%', func(c byte) bool { return c != '/' && c != '%' })
}

func unescapePath(s string) (string, error) { return unescape(s, '%') }

func isPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

func escape(name string, mark byte, plain func(byte) bool) string {
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{mark, upperHex[c>>4], upperHex[c&15]})
		}
	}
	return b.String()
}

func unescape(s string, mark byte) (string, error) {
	if strings.IndexByte(s, mark) < 0 {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != mark {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", fmt.Errorf("segment %q ends in a truncated escape", s)
		}
		hi, lo := unhex(s[i+1]), unhex(s[i+2])
		if hi < 0 || lo < 0 {
			return "", fmt.Errorf("segment %q has the bad escape %q", s, s[i:i+3])
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	if out := b.String(); utf8.ValidString(out) {
		return out, nil
	}
	return "", fmt.Errorf("segment %q is not UTF-8 once unescaped", s)
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
