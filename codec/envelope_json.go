package codec

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// appendJSON writes the four fields and, raw, the event or, in base64, the
// payload.
func (e *Envelope) appendJSON(dst []byte) ([]byte, error) {
	if !e.Bytes {
		// It must not spoil the envelope, which is one level of nesting itself.
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

// checkJSON refuses what is not exactly one JSON value in valid UTF-8, nested
// at most so deep.
func checkJSON(data []byte, depth int) error {
	if _, err := surveyJSON(data, depth); err != nil {
		return err
	}
	if !utf8.Valid(data) {
		return &FormatError{Format: "json", Reason: "not valid UTF-8"}
	}
	return validJSON(data)
}

// readJSON reads the JSON form. It checks the whole text first, so that what
// walks it afterwards can be simple.
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

// readMember takes one member of the object: its quoted name, and its value
// as it stands at that offset of the text.
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
			return d.fault(f, offset, fmt.Sprintf("got %s, want a string", excerpt(value)), nil)
		}
		topic, err := unquote(value)
		if err != nil {
			return badMember(err, offset)
		}
		return d.setTopic(topic, offset)
	default:
		v, err := strconv.ParseUint(string(value), 10, 64)
		if err != nil {
			return d.fault(f, offset, fmt.Sprintf("got %s, want an integer from 0 to 2^64-1", excerpt(value)), nil)
		}
		d.numbers[f] = v
		return nil
	}
}

// readJSONPayload reads base64, or the array of numbers that serde writes.
func (d *decoded) readJSONPayload(value []byte, offset int) error {
	switch value[0] {
	case '"':
		text, err := unquote(value)
		if err != nil {
			return badMember(err, offset)
		}
		if d.payload, err = base64.StdEncoding.AppendDecode([]byte{}, text); err != nil {
			return d.fault(fieldPayload, offset, "want standard base64 with padding", err)
		}
		return nil
	case '[':
		return d.readJSONNumbers(value, offset)
	default:
		return d.fault(fieldPayload, offset, fmt.Sprintf("got %s, want base64 or an array of numbers", excerpt(value)), nil)
	}
}

func (d *decoded) readJSONNumbers(value []byte, offset int) error {
	d.payload = []byte{}
	for pos := skipSpace(value, 1); value[pos] != ']'; {
		end := valueEnd(value, pos)
		v, err := strconv.ParseUint(string(value[pos:end]), 10, 8)
		if err != nil {
			return d.fault(fieldPayload, offset+pos, fmt.Sprintf("element %d is %s, want 0 to 255", len(d.payload), excerpt(value[pos:end])), nil)
		}
		d.payload = append(d.payload, byte(v))
		if pos = skipSpace(value, end); value[pos] == ',' {
			pos = skipSpace(value, pos+1)
		}
	}
	return nil
}

// unquote returns the content of a valid JSON string, without a copy where it
// has no escapes.
func unquote(quoted []byte) ([]byte, error) {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1], nil
	}
	var s string
	err := json.Unmarshal(quoted, &s)
	return []byte(s), err
}

// valueEnd returns the offset after the value at data[pos]. Data is a valid
// JSON object or array around it.
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
				return pos // the end of what is around a number or literal
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

// badMember is for what cannot be: the text has been checked.
func badMember(err error, offset int) error {
	return &FormatError{Format: "json", Offset: offset, Reason: "no valid JSON", Err: err}
}

// excerpt shortens a value for an error message.
func excerpt(value []byte) string {
	if len(value) <= 32 {
		return string(value)
	}
	return string(value[:32]) + "…"
}
