package codec

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// An Envelope carries one event and says where it comes from.
type Envelope struct {
	PublisherID uint64
	Sequence    uint64 // from 0, one more with every event of the publisher
	PublishedAt uint64 // Unix milliseconds
	Topic       string // UTF-8

	// Payload is the event. After Decode it may share memory with the data
	// that was decoded, and must not be written to.
	Payload []byte

	// Codec is what the envelope was encoded with, and its event too unless
	// Bytes says otherwise. Decode sets it, Append does not look at it.
	Codec Codec

	// Bytes says that the payload is opaque and not an event in the
	// envelope's codec. In JSON the two look different; in msgpack they are
	// the same on the wire, and Decode sets it to false.
	Bytes bool
}

// field is one of the five fields of an envelope, in the order of the
// positional form.
type field int

const (
	fieldPublisherID field = iota
	fieldSequence
	fieldPublishedAt
	fieldTopic
	fieldPayload
	fieldCount
)

func (f field) String() string {
	return [...]string{"publisher_id", "sequence", "published_at", "topic", "payload"}[f]
}

// fieldOf returns the field of that name in the msgpack form.
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

// Append appends the envelope to dst in the form of c, which is [JSON] or
// [Msgpack] and also what the payload was encoded with, unless e.Bytes is set.
// It returns the extended buffer, or dst as it was and an error: c is neither
// (wraps [ErrUnknown]), the topic is not UTF-8, or a JSON payload is not JSON.
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

// Decode reads the envelope that data holds, in whichever form its first byte
// announces: a JSON object, a msgpack map with the fields in any order, or a
// msgpack array with the fields in theirs. Fields it does not know are skipped,
// also at the end of an array; a field that is missing, there twice or of a
// wrong type is a *[FormatError] that names it. With an error e is unchanged.
//
// Topic is only allocated anew when it differs from what e.Topic holds, so
// that decoding one envelope after the other into e allocates nothing, unless
// a payload must be converted (base64, an array of numbers).
func (e *Envelope) Decode(data []byte) error {
	if len(data) == 0 {
		return &FormatError{Reason: "empty, want a JSON object or a msgpack map or array"}
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
		return &FormatError{Reason: fmt.Sprintf("first byte %02x, want a JSON object or a msgpack map or array", c)}
	}
	if err != nil {
		return err
	}
	return d.moveTo(e, len(data))
}

// decoded gathers the fields of an envelope while it is read.
type decoded struct {
	codec   Codec
	numbers [fieldTopic]uint64
	topic   []byte
	payload []byte
	bytes   bool
	seen    [fieldCount]bool
}

// mark notes that f is there, and refuses it when it was there before.
func (d *decoded) mark(f field, offset int) error {
	if d.seen[f] {
		return d.fault(f, offset, "there twice, want it once", nil)
	}
	d.seen[f] = true
	return nil
}

// setTopic takes a topic that is valid UTF-8.
func (d *decoded) setTopic(topic []byte, offset int) error {
	if !utf8.Valid(topic) {
		return d.fault(fieldTopic, offset, fmt.Sprintf("%q, want valid UTF-8", topic), nil)
	}
	d.topic = topic
	return nil
}

// moveTo fills e, if nothing is missing from the envelope of size bytes.
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

// fault is the error for a field that is not as wanted.
func (d *decoded) fault(f field, offset int, reason string, cause error) error {
	name := f.String()
	if f == fieldPayload && d.codec == JSON && !d.seen[f] {
		name = "event or payload"
	}
	return &FormatError{Format: d.codec.Name(), Field: name, Offset: offset, Reason: reason, Err: cause}
}

// inField says that err is about that field.
func inField(name string, err error) error {
	if format, ok := errors.AsType[*FormatError](err); ok {
		format.Field = name
	}
	return err
}
