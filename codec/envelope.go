package codec

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// Envelope is one encoded event with its origin.
//
// In JSON, an event is in the member "event", and opaque bytes are in the member
// "payload" instead, in standard base64 with padding:
//
//	{"publisher_id":7,"sequence":3,"published_at":1700000000000,"topic":"notes","event":{"text":"hello"}}
//	{"publisher_id":7,"sequence":3,"published_at":1700000000000,"topic":"notes","payload":"aGVsbG8="}
//
// In msgpack, it is a map of publisher_id, sequence, published_at, topic and
// payload in this order, with integers in the fewest bytes and the payload as bin.
type Envelope struct {
	PublisherID uint64 // id of the publisher
	Sequence    uint64 // number of the event among those of the publisher, from 0
	PublishedAt uint64 // time of publishing in Unix milliseconds, by the publisher's clock
	Topic       string // topic without the scope, in UTF-8

	// Payload is the encoded event. After Decode it may share memory with the
	// decoded data, and must not be written to.
	Payload []byte

	// Codec is the codec of the envelope, and of the event unless Bytes is set.
	// Decode sets it. Append ignores it.
	Codec Codec

	// Bytes reports that the payload is opaque bytes, not an event in the codec
	// of the envelope. In JSON the two differ in format. In msgpack they have
	// the same format, and Decode sets Bytes to false.
	Bytes bool
}

// field is one of the five fields of an envelope, in the order of the msgpack
// array.
type field int

const (
	fieldPublisherID field = iota
	fieldSequence
	fieldPublishedAt
	fieldTopic
	fieldPayload
	fieldCount
)

// String returns the name of f on the wire.
func (f field) String() string {
	return [...]string{"publisher_id", "sequence", "published_at", "topic", "payload"}[f]
}

// fieldOf returns the field with the given name in the msgpack map.
func fieldOf(name []byte) (field, bool) {
	switch string(name) {
	case "publisher_id":
		return fieldPublisherID, true
	case "sequence":
		return fieldSequence, true
	case "published_at":
		return fieldPublishedAt, true
	case "topic":
		return fieldTopic, true
	case "payload":
		return fieldPayload, true
	}
	return 0, false
}

// Append appends the envelope, encoded with c, to dst and returns the extended
// buffer. c must be [JSON] or [Msgpack], and the codec of the payload too unless
// e.Bytes is set.
//
// With an error it returns dst unchanged. The error wraps [ErrUnknown] if c is
// another codec, and is a *[FormatError] if an event in JSON is not valid JSON.
// It is also an error if the topic is not UTF-8, or a field is too long for
// msgpack (4 GiB).
func (e *Envelope) Append(dst []byte, c Codec) ([]byte, error) {
	if !utf8.ValidString(e.Topic) {
		return dst, fmt.Errorf("codec: envelope: topic %q: want valid UTF-8", e.Topic)
	}
	switch c {
	case JSON:
		return e.appendJSON(dst)
	case Msgpack:
		return e.appendMsgpack(dst)
	case nil:
		return dst, fmt.Errorf("codec: envelope: %w: none given, want JSON or Msgpack", ErrUnknown)
	default:
		return dst, fmt.Errorf("codec: envelope: %w %q: want JSON or Msgpack", ErrUnknown, c.Name())
	}
}

// Decode decodes data into e. It detects the format by the first byte: a JSON
// object, a msgpack map with the fields in any order, or a msgpack array with the
// fields in their order. Unknown fields are skipped, also at the end of an array.
//
// If a field is missing, repeated or of the wrong type, the error is a
// *[FormatError] with its name. With an error e is unchanged.
//
// Decode allocates a new Topic only if it differs from e.Topic. Decoding many
// envelopes of a topic into the same e therefore allocates nothing, except for
// payloads that must be converted (from base64 or an array of numbers).
func (e *Envelope) Decode(data []byte) error {
	if len(data) == 0 {
		return &FormatError{Reason: "empty: want a JSON object or a msgpack map or array"}
	}
	var d decoded
	var err error
	switch c := data[0]; {
	case c == '{':
		d.codec = JSON
		err = d.readJSON(data)
	case c&0xe0 == 0x80 || c >= 0xdc && c <= 0xdf:
		d.codec = Msgpack
		err = d.readMsgpack(data)
	default:
		return &FormatError{Reason: fmt.Sprintf("first byte %02x: want a JSON object or a msgpack map or array", c)}
	}
	if err != nil {
		return err
	}
	return d.moveTo(e, len(data))
}

// decoded collects the fields of an envelope while it is decoded.
type decoded struct {
	codec   Codec              // detected by the first byte
	numbers [fieldTopic]uint64 // the fields before the topic
	topic   []byte             // shares memory with the input if it has no escapes
	payload []byte             // likewise, unless it was converted
	bytes   bool               // Envelope.Bytes
	seen    [fieldCount]bool   // the fields that are present
}

// mark records that f is present. It returns an error if f is repeated.
func (d *decoded) mark(f field, offset int) error {
	if d.seen[f] {
		return d.fault(f, offset, "repeated: want it once", nil)
	}
	d.seen[f] = true
	return nil
}

// setTopic sets the topic, which must be valid UTF-8.
func (d *decoded) setTopic(topic []byte, offset int) error {
	if !utf8.Valid(topic) {
		return d.fault(fieldTopic, offset, fmt.Sprintf("%q: want valid UTF-8", excerpt(topic)), nil)
	}
	d.topic = topic
	return nil
}

// moveTo sets the fields of e, unless one is missing. size is the length of the
// encoded envelope.
func (d *decoded) moveTo(e *Envelope, size int) error {
	for f := range fieldCount {
		if !d.seen[f] {
			return d.fault(f, size, "missing", nil)
		}
	}
	e.PublisherID = d.numbers[fieldPublisherID]
	e.Sequence = d.numbers[fieldSequence]
	e.PublishedAt = d.numbers[fieldPublishedAt]
	if e.Topic != string(d.topic) {
		e.Topic = string(d.topic)
	}
	e.Payload, e.Codec, e.Bytes = d.payload, d.codec, d.bytes
	return nil
}

// fault returns the error for an invalid field.
func (d *decoded) fault(f field, offset int, reason string, cause error) error {
	name := f.String()
	if f == fieldPayload && d.codec == JSON && !d.seen[f] {
		name = "event or payload"
	}
	return &FormatError{Format: d.codec.Name(), Field: name, Offset: offset, Reason: reason, Err: cause}
}

// inField sets the field of err if it is a FormatError.
func inField(name string, err error) error {
	if format, ok := errors.AsType[*FormatError](err); ok {
		format.Field = name
	}
	return err
}
