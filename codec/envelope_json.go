package codec

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// appendJSON appends the JSON object: the first four fields, and then the event
// as it is, or the opaque payload in base64.
func (e *Envelope) appendJSON(dst []byte) ([]byte, error) {
	if !e.Bytes {
		// An invalid event would invalidate the envelope, which is one level of
		// nesting itself.
		if err := checkJSON(e.Payload, maxDepth-1); err != nil {
			return dst, inField("event", err)
		}
	}
	dst = append(dst, `{"publisher_id":`...)
	dst = strconv.AppendUint(dst, e.PublisherID, 10)
	dst = append(dst, `,"sequence":`...)
	dst = strconv.AppendUint(dst, e.Sequence, 10)
	dst = append(dst, `,"published_at":`...)
	dst = strconv.AppendUint(dst, e.PublishedAt, 10)
	dst = append(dst, `,"topic":`...)
	dst = appendString(dst, e.Topic)
	if !e.Bytes {
		dst = append(dst, `,"event":`...)
		dst = append(dst, e.Payload...)
		return append(dst, '}'), nil
	}
	dst = append(dst, `,"payload":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, e.Payload)
	return append(dst, `"}`...), nil
}

// checkJSON returns an error unless data is exactly one JSON value, in valid
// UTF-8 and nested at most depth levels deep.
func checkJSON(data []byte, depth int) error {
	if _, err := surveyJSON(data, depth); err != nil {
		return err
	}
	if !utf8.Valid(data) {
		return &FormatError{Format: "json", Reason: "invalid UTF-8"}
	}
	return validJSON(data)
}

// readJSON decodes the JSON object. It validates the whole text first, so that
// the functions that walk it can rely on its syntax.
func (d *decoded) readJSON(data []byte) error {
	if err := checkJSON(data, maxDepth); err != nil {
		return err
	}
	pos := skipSpace(data, 1)
	for data[pos] != '}' {
		end := stringEnd(data, pos)
		name := data[pos:end]
		start := skipSpace(data, skipSpace(data, end)+1) // after the colon
		end = valueEnd(data, start)
		if err := d.readMember(name, data[start:end:end], start); err != nil {
			return err
		}
		if pos = skipSpace(data, end); data[pos] == ',' {
			pos = skipSpace(data, pos+1)
		}
	}
	return nil
}

// readMember decodes one member of the object. name is quoted, and offset is that
// of the value in the text.
func (d *decoded) readMember(name, value []byte, offset int) error {
	key, err := unquote(name)
	if err != nil {
		return badMember(err, offset)
	}
	isEvent := string(key) == "event"
	f, known := fieldOf(key)
	if isEvent {
		f = fieldPayload
	} else if !known {
		return nil
	}
	if err := d.mark(f, offset); err != nil {
		return err
	}
	switch {
	case isEvent:
		d.payload = value
		return nil
	case f == fieldPayload:
		d.bytes = true
		return d.readJSONPayload(value, offset)
	case f == fieldTopic:
		if value[0] != '"' {
			return d.fault(f, offset, fmt.Sprintf("got %s: want a string", excerpt(value)), nil)
		}
		topic, err := unquote(value)
		if err != nil {
			return badMember(err, offset)
		}
		return d.setTopic(topic, offset)
	default:
		v, err := strconv.ParseUint(string(value), 10, 64)
		if err != nil {
			return d.fault(f, offset, fmt.Sprintf("got %s: want an integer from 0 to 2^64-1", excerpt(value)), nil)
		}
		d.numbers[f] = v
		return nil
	}
}

// readJSONPayload decodes base64, or an array of numbers, which is how serde
// encodes bytes.
func (d *decoded) readJSONPayload(value []byte, offset int) error {
	switch value[0] {
	case '"':
		text, err := unquote(value)
		if err != nil {
			return badMember(err, offset)
		}
		if d.payload, err = base64.StdEncoding.AppendDecode([]byte{}, text); err != nil {
			return d.fault(fieldPayload, offset, "invalid base64: want the standard alphabet with padding", err)
		}
		return nil
	case '[':
		return d.readJSONNumbers(value, offset)
	default:
		return d.fault(fieldPayload, offset, fmt.Sprintf("got %s: want base64 or an array of numbers", excerpt(value)), nil)
	}
}

// readJSONNumbers decodes an array of numbers from 0 to 255.
func (d *decoded) readJSONNumbers(value []byte, offset int) error {
	d.payload = []byte{}
	for pos := skipSpace(value, 1); value[pos] != ']'; {
		end := valueEnd(value, pos)
		v, err := strconv.ParseUint(string(value[pos:end]), 10, 8)
		if err != nil {
			return d.fault(fieldPayload, offset+pos, fmt.Sprintf("element %d is %s: want 0 to 255", len(d.payload), excerpt(value[pos:end])), nil)
		}
		d.payload = append(d.payload, byte(v))
		if pos = skipSpace(value, end); value[pos] == ',' {
			pos = skipSpace(value, pos+1)
		}
	}
	return nil
}

// unquote returns the content of a valid JSON string. It copies only a string
// with escapes.
func unquote(quoted []byte) ([]byte, error) {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1], nil
	}
	var s string
	err := json.Unmarshal(quoted, &s)
	return []byte(s), err
}

// valueEnd returns the offset after the value at data[pos]. The value must be an
// element of a valid JSON object or array.
func valueEnd(data []byte, pos int) int {
	for depth := 0; ; pos++ {
		switch data[pos] {
		case '"':
			if pos = stringEnd(data, pos); depth == 0 {
				return pos
			}
			pos--
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return pos // end of the container after a number or literal
			}
			if depth--; depth == 0 {
				return pos + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return pos
			}
		}
	}
}

// skipSpace returns the offset of the first byte at or after pos that is not white
// space, or the length of data.
func skipSpace(data []byte, pos int) int {
	for pos < len(data) {
		switch data[pos] {
		case ' ', '\t', '\r', '\n':
			pos++
		default:
			return pos
		}
	}
	return pos
}

// badMember returns the error for a string that cannot be unquoted. The text is
// valid at this point, so it is not expected to occur.
func badMember(err error, offset int) error {
	return &FormatError{Format: "json", Offset: offset, Reason: "invalid JSON", Err: err}
}

// excerpt shortens a value for an error message.
func excerpt(value []byte) string {
	if len(value) <= 32 {
		return string(value)
	}
	return string(value[:32]) + "…"
}
