package driver

import "math"

// A driver sends an answer in batches, between which it serves other clients.
const (
	replayBatchEvents = 64
	replayBatchBytes  = 256 << 10
)

// NoSequence is a sequence that no event has. Drivers mark the end of an answer
// with it.
const NoSequence = math.MaxUint64

// ReplayAnswer is the progress of the answer to a request for events, for drivers
// that serve a History.
type ReplayAnswer struct {
	First, Last uint64 // as requested
	Sent        uint64 // events

	next  uint64 // sequence
	limit uint64 // events
	ended bool
}

// NewReplayAnswer returns the answer to a request for the events from first to
// last, of which it has limit at most.
func NewReplayAnswer(first, last, limit uint64) ReplayAnswer {
	return ReplayAnswer{First: first, Last: last, next: first, limit: limit, ended: first > last}
}

// Batch appends to dst the next events of the answer, n at most. There are none if
// the answer is complete.
func (a *ReplayAnswer) Batch(h History, dst []Message, n int) []Message {
	if a.ended || a.Sent >= a.limit {
		return dst
	}
	return h.Slice(dst, a.next, a.Last, int(min(uint64(n), replayBatchEvents, a.limit-a.Sent)), replayBatchBytes)
}

// Advance marks the events of a batch as sent.
func (a *ReplayAnswer) Advance(sent []Message) {
	if len(sent) == 0 {
		return
	}
	a.Sent += uint64(len(sent))
	a.next = sent[len(sent)-1].Sequence + 1
	a.ended = a.next == 0 || a.next > a.Last
}
