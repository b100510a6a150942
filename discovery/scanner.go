package discovery

import (
	"bytes"
	"unicode/utf8"
)

// maxScanDepth is the nesting up to which a scanner reads JSON. encoding/json,
// which decodes what the scanner leaves, reads 10,000 levels.
const maxScanDepth = 64

// scanObject finds fields of a JSON object in one pass, which validates all of
// it. It sets each of values to the bytes of the field of that name, and leaves
// it nil if there is none. It returns the number of all fields.
//
// It reports false for everything that encoding/json has to decode, valid or not:
// anything but an object, invalid JSON, deep nesting, one of the names twice or
// in another case, and names with escapes.
func scanObject(data []byte, names []string, values [][]byte) (fields int, ok bool) {
	s := scanner{data: data}
	s.space()
	if !s.object(0, func(name, value []byte) bool {
		fields++
		for i := range names {
			if string(name) == names[i] {
				duplicate := values[i] != nil
				values[i] = value
				return !duplicate
			}
		}
		for i := range names {
			if bytes.EqualFold(name, []byte(names[i])) {
				return false
			}
		}
		return isPlainText(name)
	}) {
		return 0, false
	}
	s.space()
	return fields, s.at == len(data)
}

// isPlainText reports whether the bytes between the quotes of a JSON string are
// its text: encoding/json replaces escapes and invalid UTF-8.
func isPlainText(s []byte) bool { return bytes.IndexByte(s, '\\') < 0 && utf8.Valid(s) }

// scanner reads JSON. Its methods advance past what they read and report whether
// it is valid, by the same grammar as encoding/json.
type scanner struct {
	data []byte
	at   int
}

// peek returns the next byte, or 0 at the end.
func (s *scanner) peek() byte {
	if s.at < len(s.data) {
		return s.data[s.at]
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.at++
	return true
}

func (s *scanner) space() {
	for c := s.peek(); c == ' ' || c == '\n' || c == '\t' || c == '\r'; c = s.peek() {
		s.at++
	}
}

func (s *scanner) value(depth int) bool {
	if depth > maxScanDepth {
		return false
	}
	switch c := s.peek(); c {
	case '{':
		return s.object(depth, nil)
	case '[':
		return s.array(depth)
	case '"':
		return s.text()
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

// object passes each field to found, if it is not nil, and ends if that returns
// false.
func (s *scanner) object(depth int, found func(name, value []byte) bool) bool {
	if !s.take('{') {
		return false
	}
	s.space()
	if s.take('}') {
		return true
	}
	for {
		from := s.at
		if !s.text() {
			return false
		}
		name := s.data[from+1 : s.at-1]
		s.space()
		if !s.take(':') {
			return false
		}
		s.space()
		from = s.at
		if !s.value(depth + 1) {
			return false
		}
		if found != nil && !found(name, s.data[from:s.at:s.at]) {
			return false
		}
		s.space()
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
		s.space()
	}
}

func (s *scanner) array(depth int) bool {
	s.at++ // [
	s.space()
	if s.take(']') {
		return true
	}
	for {
		if !s.value(depth + 1) {
			return false
		}
		s.space()
		if s.take(']') {
			return true
		}
		if !s.take(',') {
			return false
		}
		s.space()
	}
}

func (s *scanner) text() bool {
	if !s.take('"') {
		return false
	}
	for i := s.at; i < len(s.data); i++ {
		switch c := s.data[i]; {
		case c == '"':
			s.at = i + 1
			return true
		case c < ' ':
			return false
		case c == '\\':
			i++
			if i == len(s.data) || bytes.IndexByte([]byte(`"\/bfnrtu`), s.data[i]) < 0 {
				return false
			}
			if s.data[i] != 'u' {
				continue
			}
			for range 4 {
				i++
				if i == len(s.data) || unhex(s.data[i]) < 0 {
					return false
				}
			}
		}
	}
	return false
}

func (s *scanner) word(word string) bool {
	if !bytes.HasPrefix(s.data[s.at:], []byte(word)) {
		return false
	}
	s.at += len(word)
	return true
}

func (s *scanner) number() bool {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return false
	}
	if s.take('.') && !s.digits() {
		return false
	}
	if s.take('e') || s.take('E') {
		_ = s.take('+') || s.take('-')
		return s.digits()
	}
	return true
}

// digits reads one digit or more.
func (s *scanner) digits() bool {
	from := s.at
	for c := s.peek(); '0' <= c && c <= '9'; c = s.peek() {
		s.at++
	}
	return s.at > from
}
