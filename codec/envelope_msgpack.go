package codec

import (
	"encoding/binary"
	"fmt"
	"math"
)

// appendMsgpack appends the map of five pairs that rmp_serde writes.
func (e *Envelope) appendMsgpack(dst []byte) ([]byte, error) {
	if uint64(len(e.Topic)) > math.MaxUint32 || uint64(len(e.Payload)) > math.MaxUint32 {
		return dst, fmt.Errorf("codec: envelope: topic of %d and payload of %d bytes: want at most %d", len(e.Topic), len(e.Payload), uint32(math.MaxUint32))
	}
	dst = append(dst, "\x85\xacpublisher_id"...)
	dst = appendUint(dst, e.PublisherID)
	dst = append(dst, "\xa8sequence"...)
	dst = appendUint(dst, e.Sequence)
	dst = append(dst, "\xacpublished_at"...)
	dst = appendUint(dst, e.PublishedAt)
	dst = append(dst, "\xa5topic"...)
	if n := len(e.Topic); n < 32 {
		dst = append(dst, 0xa0|byte(n))
	} else {
		dst = appendLength(dst, 0xd9, n)
	}
	dst = append(dst, e.Topic...)
	dst = append(dst, "\xa7payload"...)
	dst = appendLength(dst, 0xc4, len(e.Payload))
	return append(dst, e.Payload...), nil
}

// appendUint appends v in the fewest bytes.
func appendUint(dst []byte, v uint64) []byte {
	switch {
	case v < 0x80:
		return append(dst, byte(v))
	case v <= math.MaxUint8:
		return append(dst, 0xcc, byte(v))
	case v <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, 0xcd), uint16(v))
	case v <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(dst, 0xce), uint32(v))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 0xcf), v)
	}
}

// appendLength appends a length of 8, 16 or 32 bits. The type codes of the three
// widths are consecutive; code8 is the first.
func appendLength(dst []byte, code8 byte, n int) []byte {
	switch {
	case n <= math.MaxUint8:
		return append(dst, code8, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, code8+1), uint16(n))
	default:
		return binary.BigEndian.AppendUint32(append(dst, code8+2), uint32(n))
	}
}

// readMsgpack decodes a map or an array.
func (d *decoded) readMsgpack(data []byte) error {
	h, err := readHead(data, 0)
	if err != nil {
		return err
	}
	pos := h.body
	for i := range h.n {
		f, known := field(i), field(i) < fieldCount
		if h.kind == kindMap {
			if f, known, pos, err = readKey(data, pos); err != nil {
				return err
			}
		}
		if known {
			pos, err = d.readField(data, pos, f)
		} else {
			pos, _, err = scan(data, pos, false)
		}
		if err != nil {
			return err
		}
	}
	if pos != len(data) {
		return malformed(pos, "%d bytes after the envelope: want none", len(data)-pos)
	}
	return nil
}

// readKey decodes a map key of any type at data[pos] and returns where it ends.
func readKey(data []byte, pos int) (f field, known bool, end int, err error) {
	h, err := readHead(data, pos)
	switch {
	case err != nil:
		return 0, false, pos, err
	case h.kind == kindStr:
		f, known = fieldOf(data[h.body:h.end()])
		return f, known, h.end(), nil
	default:
		end, _, err = scan(data, pos, false)
		return 0, false, end, err
	}
}

// readField decodes the value of f at data[pos] and returns where it ends.
func (d *decoded) readField(data []byte, pos int, f field) (int, error) {
	if err := d.mark(f, pos); err != nil {
		return pos, err
	}
	h, err := readHead(data, pos)
	if err != nil {
		return pos, inField(f.String(), err)
	}
	switch f {
	case fieldTopic:
		if h.kind != kindStr {
			return pos, d.fault(f, pos, fmt.Sprintf("got %s: want str", h.kind), nil)
		}
		return h.end(), d.setTopic(data[h.body:h.end()], pos)
	case fieldPayload:
		return d.readPayload(data, pos, h)
	default:
		v, ok := h.uint(data)
		if !ok {
			return pos, d.fault(f, pos, fmt.Sprintf("got %s: want a non-negative integer", h.describe(data)), nil)
		}
		d.numbers[f] = v
		return h.end(), nil
	}
}

// readPayload decodes bin, str, or the array of integers that older publishers
// send.
func (d *decoded) readPayload(data []byte, pos int, h head) (int, error) {
	switch h.kind {
	case kindBin, kindStr:
		d.payload = data[h.body:h.end():h.end()]
		return h.end(), nil
	case kindArray:
	default:
		return pos, d.fault(fieldPayload, pos, fmt.Sprintf("got %s: want bin", h.kind), nil)
	}
	d.payload = make([]byte, h.n) // readHead has checked that data has a byte for each
	pos = h.body
	for i := range d.payload {
		item, err := readHead(data, pos)
		if err != nil {
			return pos, inField(fieldPayload.String(), err)
		}
		v, ok := item.uint(data)
		if !ok || v > math.MaxUint8 {
			return pos, d.fault(fieldPayload, pos, fmt.Sprintf("element %d is %s: want 0 to 255", i, item.describe(data)), nil)
		}
		d.payload[i] = byte(v)
		pos = item.end()
	}
	return pos, nil
}
