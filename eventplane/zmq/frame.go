package zmq

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A message is frameCount frames: topic, publisher id, sequence, body with header.
const (
	frameCount   = 4
	idSize       = 8
	frameVersion = 1
	headerSize   = 5 // version: 1 byte, length of the body: 4 bytes
	maxBody      = math.MaxUint32
)

// frames are the parts of one message. Only the first frameCount are kept;
// count tells how many there were.
type frames struct {
	part  [frameCount][]byte
	count int
}

// decode reads everything behind the topic, without copying the body. A
// reason that is not empty says why it is no message, and there is no body.
func (f *frames) decode() (m item, reason string) {
	if f.count != frameCount {
		return m, fmt.Sprintf("%d frames: want %d", f.count, frameCount)
	}
	id, seq := f.part[1], f.part[2]
	if len(id) != idSize || len(seq) != idSize {
		return m, fmt.Sprintf("publisher id of %d bytes, sequence of %d: want %d and %d", len(id), len(seq), idSize, idSize)
	}
	m.publisherID, m.sequence = binary.BigEndian.Uint64(id), binary.BigEndian.Uint64(seq)
	m.body, reason = cutHeader(f.part[3])
	return m, reason
}

// cutHeader returns the body of the last frame, without copying it.
func cutHeader(frame []byte) (body []byte, reason string) {
	if len(frame) < headerSize {
		return nil, fmt.Sprintf("last frame of %d bytes: want a header of %d", len(frame), headerSize)
	}
	if frame[0] != frameVersion {
		return nil, fmt.Sprintf("version %d: want %d", frame[0], frameVersion)
	}
	body = frame[headerSize:]
	n := binary.BigEndian.Uint32(frame[1:])
	if uint64(n) > uint64(len(body)) {
		return nil, fmt.Sprintf("header announces %d bytes, %d are there", n, len(body))
	}
	return body[:n:n], ""
}

// appendHeader appends the header of a body of n bytes.
func appendHeader(dst []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, frameVersion), uint32(n))
}
