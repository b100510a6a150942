package kvstate

import (
	"context"
	"encoding/binary"
	"sync"

	"github.com/dynplane/dynplane/kvevents"
)

const (
	// ringSize is the number of events that a publisher keeps, as in Dynamo.
	ringSize = 1024

	// ringBytes bounds them in bytes. A query for events that are not kept any more is
	// answered with a dump.
	ringBytes = 64 << 20

	// maxTail is the number of events after a dump until it is made anew.
	maxTail = ringSize / 2

	// dumpedBlock is the size of a block in a dump, in bytes.
	dumpedBlock = 52

	// maxDumpAnswers is the number of dumps that are answered at a time.
	maxDumpAnswers = 8
)

// history is what a publisher records: the tree and the newest events of a rank. It
// answers queries for both.
type history struct {
	worker uint64
	rank   uint32
	domain string // of the events in a dump; empty in the older generation

	answering chan struct{} // one element for each dump that is being answered
	building  chan struct{} // one element while a dump is being made

	mu      sync.Mutex
	tree    Tree
	ring    [ringSize][]byte // encoded events, by their ids
	bytes   int              // in the ring
	first   uint64           // id of the oldest event in the ring
	last    uint64           // id of the newest event; there is none if it is below first
	cleared uint64           // id of the last event that cleared the tree
	kept    *dump            // the last one, or nil
	queries uint64
	dumps   uint64 // made
}

// dump is the state after an event.
type dump struct {
	last  uint64 // id of that event
	count int    // number of events
	body  []byte // the events, without the header of an array
}

func newHistory(worker uint64, rank uint32, domain string) *history {
	return &history{
		worker: worker, rank: rank, domain: domain, first: 1,
		answering: make(chan struct{}, maxDumpAnswers), building: make(chan struct{}, 1),
	}
}

// record records the next events, whose encoded forms are not copied.
func (h *history) record(events []record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range events {
		r := &events[i]
		h.tree.Apply(&r.event)
		h.last = r.event.ID
		if r.event.Kind == kvevents.Cleared {
			h.cleared = h.last
		}
		for h.first+ringSize <= h.last || h.first < h.last && h.bytes+len(r.raw) > ringBytes {
			slot := &h.ring[h.first%ringSize]
			h.bytes -= len(*slot)
			*slot = nil
			h.first++
		}
		h.ring[h.last%ringSize] = r.raw
		h.bytes += len(r.raw)
	}
	if h.kept != nil && !h.extends(h.kept) {
		h.kept = nil
	}
}

// extends reports whether the events after d are few, are all in the ring, and can be
// added to it.
func (h *history) extends(d *dump) bool {
	return h.last-d.last <= maxTail && d.last+1 >= h.first && h.cleared <= d.last
}

// since returns the events of the ring from an id on.
func (h *history) since(id uint64) (events [][]byte) {
	for ; id <= h.last; id++ {
		events = append(events, h.ring[id%ringSize])
	}
	return events
}

// answer answers a query. The caller must call done after it has sent the answer.
func (h *history) answer(ctx context.Context, q *kvevents.StateQuery) (a kvevents.StateAnswer, done func(), err error) {
	a, events := h.plan(q)
	done = func() {}
	switch a.Kind {
	case kvevents.AnswerEvents:
		a.Events = join(len(events), nil, events)
	case kvevents.AnswerTreeDump:
		select {
		case h.answering <- struct{}{}:
		case <-ctx.Done():
			return a, done, context.Cause(ctx)
		}
		done = func() { <-h.answering }
		if a, err = h.dumped(ctx); err != nil {
			if ctx.Err() != nil {
				return a, done, err
			}
			a = dumpFailed(q, a.LastID, err)
		}
	}
	return a, done, nil
}

// plan returns the answer to a query, with the events of it. Those of a dump are not
// determined yet.
func (h *history) plan(q *kvevents.StateQuery) (kvevents.StateAnswer, [][]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queries++
	switch {
	case q.Kind == "status":
		return answerError("KV state-agent status is not supported by this endpoint"), nil
	case q.Kind == "state_agent_recovery":
		return answerError("state-agent recovery is not supported by this endpoint"), nil
	case q.Kind != "recovery":
		return answerError("kind %.64q is not supported by this endpoint: want recovery", q.Kind), nil
	case q.Worker != h.worker:
		return answerError("worker %d: want %d, which is served here", q.Worker, h.worker), nil
	case q.Rank != h.rank:
		return answerError("rank %d: want %d, which is served here", q.Rank, h.rank), nil
	case q.Start.Present && q.End.Present && q.End.Value < q.Start.Value:
		return kvevents.StateAnswer{Kind: kvevents.AnswerInvalidRange, Start: q.Start, End: q.End}, nil
	case !q.Start.Present || q.Start.Value < h.first || h.last == 0:
		return kvevents.StateAnswer{Kind: kvevents.AnswerTreeDump}, nil
	case q.Start.Value > h.last:
		end := q.End
		if !end.Present {
			end = kvevents.Some(h.last)
		}
		return kvevents.StateAnswer{Kind: kvevents.AnswerTooNew, Start: q.Start, End: end, Newest: h.last}, nil
	}
	return kvevents.StateAnswer{Kind: kvevents.AnswerEvents, LastID: h.last}, h.since(q.Start.Value)
}

// dumped returns a dump: the last one with the events after it, or a new one. Queries
// that come while one is made wait for it.
func (h *history) dumped(ctx context.Context) (kvevents.StateAnswer, error) {
	select {
	case h.building <- struct{}{}:
	case <-ctx.Done():
		return kvevents.StateAnswer{}, context.Cause(ctx)
	}
	d, tail, tree := h.keptDump()
	var err error
	if d == nil {
		d, tail, err = h.build(tree)
	}
	<-h.building
	if err != nil {
		return kvevents.StateAnswer{LastID: d.last}, err
	}
	return kvevents.StateAnswer{
		Kind: kvevents.AnswerTreeDump, LastID: d.last + uint64(len(tail)),
		Events: join(d.count+len(tail), d.body, tail),
	}, nil
}

// keptDump returns the last dump and the events after it, or a copy of the tree from
// which a dump is to be made.
func (h *history) keptDump() (d *dump, tail [][]byte, tree *treeAt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.kept != nil {
		return h.kept, h.since(h.kept.last + 1), nil
	}
	h.dumps++
	return nil, nil, &treeAt{h.tree.snapshot(), h.last}
}

// treeAt is a copy of the tree as it was after an event.
type treeAt struct {
	*Tree
	last uint64
}

// build makes a dump, without the lock, and keeps it. It also returns the events that
// were recorded meanwhile, if the dump can still be extended by them.
func (h *history) build(tree *treeAt) (*dump, [][]byte, error) {
	d := &dump{last: tree.last, body: make([]byte, 0, tree.Len()*dumpedBlock)}
	for e := range tree.Dump() {
		e.Worker, e.Rank, e.Domain = h.worker, kvevents.Some(h.rank), h.domain
		var err error
		if d.body, err = kvevents.AppendRouterEvent(d.body, e); err != nil {
			return d, nil, err
		}
		d.count++
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.extends(d) {
		return d, nil, nil
	}
	h.kept = d
	return d, h.since(d.last + 1), nil
}

// join returns an array of count events in msgpack: those of body, and the others.
func join(count int, body []byte, events [][]byte) []byte {
	size := 5 + len(body)
	for _, raw := range events {
		size += len(raw)
	}
	b := append(appendArray(make([]byte, 0, size), count), body...)
	for _, raw := range events {
		b = append(b, raw...)
	}
	return b
}

// appendArray appends the header of an array in msgpack.
func appendArray(dst []byte, n int) []byte {
	switch {
	case n < 16:
		return append(dst, 0x90|byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 0xdc), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, 0xdd), uint32(n))
}
