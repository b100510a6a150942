package zmq

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/rawzmq"
)

// A message has frameCount frames: topic, publisher id, sequence, and the body
// after a header.
const (
	frameCount   = rawzmq.MaxFrames
	idSize       = 8
	frameVersion = 1
	headerSize   = 5 // version: 1 byte, length of the body: 4 bytes
	maxBody      = math.MaxUint32
)

// item is a received message, or the error of a malformed one.
type item struct {
	publisherID, sequence uint64
	body                  []byte
	malformed             *driver.FrameError
}

// decode decodes the frames after the topic, without copying the body. If the
// message is malformed, reason is not empty and the item has no body.
func decode(m *rawzmq.Message) (it item, reason string) {
	if m.Count != frameCount {
		return it, fmt.Sprintf("%d frames: want %d", m.Count, frameCount)
	}
	id, seq := m.Frames[1], m.Frames[2]
	if len(id) != idSize || len(seq) != idSize {
		return it, fmt.Sprintf("publisher id of %d bytes, sequence of %d: want %d and %d", len(id), len(seq), idSize, idSize)
	}
	it.publisherID, it.sequence = binary.BigEndian.Uint64(id), binary.BigEndian.Uint64(seq)
	it.body, reason = trimHeader(m.Frames[3])
	return it, reason
}

// trimHeader returns the body of the last frame, without copying it.
func trimHeader(frame []byte) (body []byte, reason string) {
	if len(frame) < headerSize {
		return nil, fmt.Sprintf("last frame of %d bytes: want a header of %d", len(frame), headerSize)
	}
	if frame[0] != frameVersion {
		return nil, fmt.Sprintf("version %d: want %d", frame[0], frameVersion)
	}
	body = frame[headerSize:]
	n := binary.BigEndian.Uint32(frame[1:])
	if uint64(n) > uint64(len(body)) {
		return nil, fmt.Sprintf("body of %d bytes: want the %d that the header announces", len(body), n)
	}
	return body[:n:n], ""
}

// appendHeader appends the header of a body of n bytes.
func appendHeader(dst []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, frameVersion), uint32(n))
}
