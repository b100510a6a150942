package zmq

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
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

	// replayEndSize is the size of what the end of a replay has instead of a body:
	// first and last sequence of the request, and the number of events.
	replayEndSize = 24
)

// Control messages have topics of their own, which begin with a character that no
// other topic does: a subscriber of the topic of events does not receive them, and
// libzmq, which sends subscriptions in the order of their bytes, sends these last.
const (
	// probeTopic and a random number of 128 bits in hexadecimal is the probe topic of
	// one subscriber. A direct publisher answers a subscription to it with a message
	// on it: once that arrives, all earlier subscriptions are in effect.
	probeTopic = "\U0010ffffdynplane.ready."
	probeSize  = len(probeTopic) + 32

	// tickTopic and the topic of events is that of the ticks of their publishers.
	tickTopic = "\U0010ffffdynplane.tick."

	// maxControlBody bounds what is decoded of the body of a control message.
	maxControlBody = 1 << 10

	// maxSubject leaves room for tickTopic.
	maxSubject = rawzmq.MaxPrefix - len(tickTopic)
)

func newProbe() string {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails
	return probeTopic + hex.EncodeToString(nonce[:])
}

func isProbe(topic []byte) bool {
	return len(topic) == probeSize && string(topic[:len(probeTopic)]) == probeTopic
}

// item is a received message, or the error of a malformed one.
type item struct {
	kind                  driver.Kind
	publisherID, sequence uint64
	publishedAt           uint64 // of a control message
	body                  []byte
	malformed             *driver.FrameError
}

// announce returns a control message that announces a dropped item.
func (it item) announce() (publisher uint64, control item, ok bool) {
	kind := it.kind
	if kind == driver.Event {
		kind = driver.Dropped
	}
	control = item{kind: kind, publisherID: it.publisherID, sequence: it.sequence, publishedAt: it.publishedAt}
	return it.publisherID, control, it.malformed == nil
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
