package requestplane

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf8"
)

const (
	headSize = 24 // of a two-part frame

	// maxHeader bounds the control frames of an answer.
	maxHeader = 1 << 20
	// maxHandshake bounds the first frame on the connection of an answer.
	maxHandshake = 4 << 10
	// maxControl bounds the control message of a request, as Dynamo's clients do.
	maxControl = 128 << 10
	// maxPath bounds the path of a request, which Dynamo limits to 65,535 bytes:
	// the first bytes of most other protocols are a length beyond it.
	maxPath = 4 << 10
	// maxAck bounds the text of a refusal.
	maxAck = 64 << 10
)

// frame is a two-part frame: a control message, which has a header only, an item,
// which has data only, or the request, which has both.
type frame struct{ header, data []byte }

// appendHead appends the head of a frame. The checksum of Dynamo's release builds
// is 0, and not checked.
func appendHead(dst []byte, header, data int) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(header))
	dst = binary.BigEndian.AppendUint64(dst, uint64(data))
	return append(dst, make([]byte, 8)...)
}

// control returns the frame of a control message.
func control(header []byte) []byte {
	return append(appendHead(make([]byte, 0, headSize+len(header)), len(header), 0), header...)
}

// readFrame reads a frame whose parts are not above the limits. It returns io.EOF
// only if there is no byte of it.
func readFrame(r io.Reader, header, data int64) (f frame, err error) {
	var head [headSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return f, err
	}
	h, d := binary.BigEndian.Uint64(head[:]), binary.BigEndian.Uint64(head[8:])
	if h > uint64(header) || d > uint64(data) {
		return f, fmt.Errorf("%w: header of %d bytes and data of %d bytes, want at most %d and %d", ErrTooLarge, h, d, header, data)
	}
	if f.header, err = readBytes(r, int(h), nil); err == nil {
		f.data, err = readBytes(r, int(d), nil)
	}
	return f, err
}

// readBytes reads n bytes. The buffer grows with the bytes that have arrived, so
// that those which are only announced cost nothing. reserve, unless it is nil,
// is called with each growth and can refuse it.
func readBytes(r io.Reader, n int, reserve func(int) error) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	const first = 64 << 10
	buf := make([]byte, min(n, first))
	for filled := 0; ; {
		got, err := io.ReadFull(r, buf[filled:])
		if errors.Is(err, io.EOF) { // the frame has begun
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		if filled += got; filled == n {
			return buf, nil
		}
		grown := min(n, 2*filled)
		if reserve != nil {
			if err := reserve(grown - filled); err != nil {
				return nil, err
			}
		}
		buf = append(make([]byte, 0, grown), buf...)[:grown]
	}
}

// splitFrame returns the parts of a frame that is all of data.
func splitFrame(data []byte) (f frame, err error) {
	if len(data) < headSize {
		return f, invalid("payload of %d bytes, want a frame", len(data))
	}
	h, d := binary.BigEndian.Uint64(data), binary.BigEndian.Uint64(data[8:])
	rest := data[headSize:]
	if size := uint64(len(rest)); h > size || d != size-h {
		return f, invalid("frame with a header of %d bytes and data of %d bytes in %d bytes", h, d, size)
	}
	return frame{rest[:h:h], rest[h:]}, nil
}

// rawRequest is a request as it is sent: a path, headers, and a payload that is
// a frame.
type rawRequest struct {
	path    string
	headers map[string]string
	payload []byte
}

// encodeRequest returns the bytes of a request up to its data.
func encodeRequest(path string, headers map[string]string, control []byte, data int) ([]byte, error) {
	h, err := json.Marshal(headers)
	if err != nil {
		return nil, err
	}
	size := headSize + len(control) + data
	if len(h) > math.MaxUint16 || size > math.MaxUint32 {
		return nil, fmt.Errorf("%w: headers of %d bytes and payload of %d bytes", ErrTooLarge, len(h), size)
	}
	dst := binary.BigEndian.AppendUint16(nil, uint16(len(path)))
	dst = append(dst, path...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(h)))
	dst = append(dst, h...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(size))
	return append(appendHead(dst, len(control), data), control...), nil
}

// readRequest reads a request of at most limit bytes. Its headers are optional,
// and so is their format.
func readRequest(r io.Reader, limit int64, reserve func(int) error) (req rawRequest, err error) {
	path, err := readShort(r, maxPath)
	if err != nil {
		return req, err
	}
	if len(path) == 0 || !utf8.Valid(path) {
		return req, invalid("path %q, want UTF-8", excerpt(path))
	}
	headers, err := readShort(r, math.MaxUint16)
	if err != nil {
		return req, err
	}
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return req, err
	}
	n := int64(binary.BigEndian.Uint32(length[:]))
	if size := int64(8+len(path)+len(headers)) + n; size > limit {
		return req, fmt.Errorf("%w: %d bytes (max: %d bytes)", ErrTooLarge, size, limit)
	}
	req.path = string(path)
	_ = json.Unmarshal(headers, &req.headers)
	req.payload, err = readBytes(r, int(n), reserve)
	return req, err
}

// readShort reads bytes after a length of 16 bits.
func readShort(r io.Reader, limit int) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n > limit {
		return nil, invalid("path of %d bytes, want at most %d", n, limit)
	}
	return readBytes(r, n, nil)
}

// ack returns an acknowledgement. An empty text accepts the request.
func ack(text string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
}

// readAck returns the text of an acknowledgement.
func readAck(r io.Reader) (string, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return "", err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxAck {
		return "", invalid("acknowledgement of %d bytes, want at most %d", n, maxAck)
	}
	text, err := readBytes(r, int(n), nil)
	return string(text), err
}
