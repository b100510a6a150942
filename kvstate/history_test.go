package kvstate

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/dynplane/dynplane/kvevents"
)

// feed records n events, each of which stores the block of its own number.
func feed(t *testing.T, h *history, n int) {
	t.Helper()
	for range n {
		feedEvent(t, h, storedBlocks(h.last, h.last+1))
	}
}

func feedEvent(t *testing.T, h *history, e kvevents.Event) {
	t.Helper()
	e.Worker, e.Rank, e.ID, e.Domain = h.worker, kvevents.Some(h.rank), h.last+1, h.domain
	raw, err := kvevents.AppendRouterEvent(nil, &e)
	if err != nil {
		t.Error(err)
	}
	h.record([]record{{e, raw}})
}

// queryFrom returns the answer to a query from start on, which is absent if it is negative.
func queryFrom(t *testing.T, h *history, start int) kvevents.StateAnswer {
	t.Helper()
	q := kvevents.StateQuery{Worker: h.worker, Rank: h.rank, Kind: "recovery"}
	if start >= 0 {
		q.Start = kvevents.Some(uint64(start))
	}
	a, done, err := h.answer(t.Context(), &q)
	if err != nil {
		t.Fatal(err)
	}
	done()
	return a
}

// idsOf returns the ids of the events in an answer.
func idsOf(t *testing.T, a kvevents.StateAnswer) (ids []uint64) {
	t.Helper()
	d := kvevents.Decoder{MaxBytes: len(a.Events) + 1}
	if _, err := d.Router(a.Events); err != nil {
		t.Fatal(err)
	}
	for e := range d.Events() {
		if e.Kind == kvevents.Unknown {
			t.Errorf("unknown event %+v", e)
		}
		ids = append(ids, e.ID)
	}
	return ids
}

// blocksOf returns the blocks of an answer, in order, as a router that was reset has
// them.
func blocksOf(t *testing.T, a kvevents.StateAnswer) (hashes []uint64) {
	t.Helper()
	d := kvevents.Decoder{MaxBytes: len(a.Events) + 1}
	if _, err := d.Router(a.Events); err != nil {
		t.Fatal(err)
	}
	for e := range d.Events() {
		switch e.Kind {
		case kvevents.Stored:
			hashes = append(hashes, e.Hashes...)
		case kvevents.Removed:
			hashes = slices.DeleteFunc(hashes, func(h uint64) bool { return slices.Contains(e.Hashes, h) })
		case kvevents.Cleared:
			hashes = nil
		}
	}
	slices.Sort(hashes)
	return slices.Compact(hashes)
}

func wantAnswer(t *testing.T, a kvevents.StateAnswer, kind kvevents.AnswerKind, events, last int) {
	t.Helper()
	if got := len(idsOf(t, a)); a.Kind != kind || got != events || a.LastID != uint64(last) {
		t.Errorf("%v with %d events up to %d, want %v with %d up to %d", a.Kind, got, a.LastID, kind, events, last)
	}
}

// The cases of a real worker.
func TestAnswers(t *testing.T) {
	t.Parallel()
	h := newHistory(7, 0, domain)
	for _, start := range []int{-1, 0, 1, 9} {
		if a := queryFrom(t, h, start); a.Kind != kvevents.AnswerTreeDump || a.LastID != 0 || len(idsOf(t, a)) != 0 {
			t.Errorf("answer %+v before the first event, want an empty dump", a)
		}
	}
	feed(t, h, 1108)
	wantAnswer(t, queryFrom(t, h, 85), kvevents.AnswerEvents, 1024, 1108)
	wantAnswer(t, queryFrom(t, h, 1108), kvevents.AnswerEvents, 1, 1108)
	wantAnswer(t, queryFrom(t, h, 84), kvevents.AnswerTreeDump, 1, 1108)
	wantAnswer(t, queryFrom(t, h, 0), kvevents.AnswerTreeDump, 1, 1108)
	wantAnswer(t, queryFrom(t, h, -1), kvevents.AnswerTreeDump, 1, 1108)
	if got := blocksOf(t, queryFrom(t, h, -1)); len(got) != 1108 {
		t.Errorf("%d blocks in the dump", len(got))
	}
	if ids := idsOf(t, queryFrom(t, h, 1000)); ids[0] != 1000 || ids[len(ids)-1] != 1108 {
		t.Errorf("ids %v", ids)
	}
	tooNew := queryFrom(t, h, 1109)
	if tooNew.Kind != kvevents.AnswerTooNew || tooNew.Start.Value != 1109 || tooNew.End != kvevents.Some(uint64(1108)) || tooNew.Newest != 1108 {
		t.Errorf("answer %+v", tooNew)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	h := newHistory(7, 3, domain)
	feed(t, h, 3)
	for _, c := range []struct {
		q    kvevents.StateQuery
		want kvevents.StateAnswer
	}{
		{kvevents.StateQuery{Worker: 8, Rank: 3, Kind: "recovery"}, answerError("worker 8: want 7, which is served here")},
		{kvevents.StateQuery{Worker: 7, Rank: 2, Kind: "recovery"}, answerError("rank 2: want 3, which is served here")},
		{kvevents.StateQuery{Worker: 7, Rank: 3, Kind: "status"}, answerError("KV state-agent status is not supported by this endpoint")},
		{kvevents.StateQuery{Worker: 7, Rank: 3, Kind: "state_agent_recovery"}, answerError("state-agent recovery is not supported by this endpoint")},
		{kvevents.StateQuery{Worker: 7, Rank: 3, Kind: "x"}, answerError(`kind "x" is not supported by this endpoint: want recovery`)},
		{
			kvevents.StateQuery{Worker: 7, Rank: 3, Kind: "recovery", Start: kvevents.Some(uint64(3)), End: kvevents.Some(uint64(2))},
			kvevents.StateAnswer{Kind: kvevents.AnswerInvalidRange, Start: kvevents.Some(uint64(3)), End: kvevents.Some(uint64(2))},
		},
		{ // the end does not cut
			kvevents.StateQuery{Worker: 7, Rank: 3, Kind: "recovery", Start: kvevents.Some(uint64(3)), End: kvevents.Some(uint64(3))},
			queryFrom(t, h, 3),
		},
		{
			kvevents.StateQuery{Worker: 7, Rank: 3, Kind: "recovery", Start: kvevents.Some(uint64(5)), End: kvevents.Some(uint64(9))},
			kvevents.StateAnswer{Kind: kvevents.AnswerTooNew, Start: kvevents.Some(uint64(5)), End: kvevents.Some(uint64(9)), Newest: 3},
		},
	} {
		got, done, err := h.answer(t.Context(), &c.q)
		done()
		if fmt.Sprint(got) != fmt.Sprint(c.want) || err != nil {
			t.Errorf("answer %+v, error %v to %+v, want %+v", got, err, c.q, c.want)
		}
	}
	failed := errors.New("reason")
	if a := dumpFailed(&kvevents.StateQuery{DumpFailed: true}, 5, failed); a.Kind != kvevents.AnswerTreeDumpFailed || a.LastID != 5 || a.Message != "reason" {
		t.Errorf("answer %+v", a)
	}
	if a := dumpFailed(&kvevents.StateQuery{}, 5, failed); a.Kind != kvevents.AnswerError || a.Message != "no dump can be made: reason" {
		t.Errorf("answer %+v to a router that does not accept a failed dump", a)
	}
}

// A dump is kept for as long as it has at most 512 events after it, all of which can be
// applied to it.
func TestDumpIsKept(t *testing.T) {
	t.Parallel()
	h := newHistory(7, 0, domain)
	feed(t, h, 1108)
	wantAnswer(t, queryFrom(t, h, -1), kvevents.AnswerTreeDump, 1, 1108)
	feed(t, h, 500)
	for i := range uint64(12) {
		feedEvent(t, h, removedBlocks(1608-i))
	}
	a := queryFrom(t, h, -1)
	wantAnswer(t, a, kvevents.AnswerTreeDump, 513, 1620)
	if ids, blocks := idsOf(t, a), blocksOf(t, a); ids[1] != 1109 || ids[512] != 1620 || len(blocks) != 1596 {
		t.Errorf("%d blocks, ids from %d to %d after the dump", len(blocks), ids[1], ids[512])
	}
	feedEvent(t, h, storedBlocks(1596, 1621))
	if h.kept != nil {
		t.Error("the dump is kept though it is not used any more")
	}
	a = queryFrom(t, h, -1)
	wantAnswer(t, a, kvevents.AnswerTreeDump, 1, 1621)
	if h.dumps != 2 || len(blocksOf(t, a)) != 1597 {
		t.Errorf("%d dumps were made, %d blocks in the last one", h.dumps, len(blocksOf(t, a)))
	}
	feedEvent(t, h, kvevents.Event{Kind: kvevents.Cleared, Medium: "device"})
	feed(t, h, 1)
	wantAnswer(t, queryFrom(t, h, -1), kvevents.AnswerTreeDump, 0, 1623) // the block has no parent
	wantAnswer(t, queryFrom(t, h, 1622), kvevents.AnswerEvents, 2, 1623)
}

// Events are bounded in bytes, too; a query for others is answered with a dump.
func TestRingIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	h := newHistory(7, 0, domain)
	for i := range uint64(20) {
		e := storedBlocks(0, i)
		e.ID = i + 1
		h.record([]record{{e, make([]byte, ringBytes/8)}})
	}
	if h.first != 13 || h.bytes != ringBytes {
		t.Errorf("events from %d on, in %d bytes", h.first, h.bytes)
	}
	e := storedBlocks(0, 99)
	e.ID = 21
	h.record([]record{{e, make([]byte, ringBytes+1)}})
	if h.first != 21 || h.bytes != ringBytes+1 {
		t.Errorf("events from %d on, in %d bytes, want the last one, however large", h.first, h.bytes)
	}
	if a, _ := h.plan(&kvevents.StateQuery{Worker: 7, Kind: "recovery", Start: kvevents.Some(uint64(20))}); a.Kind != kvevents.AnswerTreeDump {
		t.Errorf("answer %v for an event that is not kept", a.Kind)
	}
}

// At most 8 dumps are answered at a time, further queries wait, and those at the same
// time share one dump.
func TestDumpsAtATime(t *testing.T) {
	t.Parallel()
	h := newHistory(7, 0, domain)
	feed(t, h, 10)
	q := &kvevents.StateQuery{Worker: 7, Kind: "recovery"}
	answers, release := make(chan kvevents.StateAnswer, 20), make(chan struct{})
	var running sync.WaitGroup
	for range cap(answers) {
		running.Go(func() {
			a, done, err := h.answer(t.Context(), q)
			defer done()
			if err != nil {
				t.Error(err)
			}
			answers <- a
			<-release
		})
	}
	for range maxDumpAnswers {
		wantAnswer(t, <-answers, kvevents.AnswerTreeDump, 1, 10)
	}
	// All permits are taken, so that no other answer can come.
	if len(h.answering) != maxDumpAnswers || len(answers) > 0 {
		t.Errorf("%d dumps are answered, %d more answers", len(h.answering), len(answers))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	if _, done, err := h.answer(ctx, q); !errors.Is(err, gone) {
		done()
		t.Errorf("error %v of a client that does not wait", err)
	}
	wantAnswer(t, queryFrom(t, h, 10), kvevents.AnswerEvents, 1, 10) // without a permit
	close(release)
	running.Wait()
	if len(answers) != cap(answers)-maxDumpAnswers || h.dumps != 1 || len(h.answering) != 0 {
		t.Errorf("%d further answers, %d dumps were made", len(answers), h.dumps)
	}
}

// Every answer is the state after its last event, whatever is recorded meanwhile.
func TestAnswersDuringEvents(t *testing.T) {
	t.Parallel()
	h := newHistory(7, 0, domain)
	var running sync.WaitGroup
	running.Go(func() { feed(t, h, 3000) })
	for range 4 {
		running.Go(func() {
			for last := uint64(0); last < 3000; {
				a := queryFrom(t, h, -1)
				if blocks := blocksOf(t, a); uint64(len(blocks)) != a.LastID || a.LastID < last {
					t.Errorf("%d blocks in a dump of %d, after one of %d", len(blocks), a.LastID, last)
					return
				}
				last = a.LastID
			}
		})
	}
	running.Wait()
}

// The bytes are those of a worker of Dynamo.
func TestAnswerBytes(t *testing.T) {
	t.Parallel()
	h := newHistory(0x3a37060081ce753f, 0, domain)
	feedEvent(t, h, in("device", kvevents.Event{Kind: kvevents.Stored, Hashes: []uint64{1, 2}, TokensHashes: []uint64{3, 4}}))
	const block = "83aa626c6f636b5f68617368%02xab746f6b656e735f68617368%02xad6d6d5f65787472615f696e666fc0"
	event := "84a9776f726b65725f6964cf3a37060081ce753fac73746f726167655f74696572a6646576696365b0" +
		"7265736964656e63795f646f6d61696ea6776f726b6572a56576656e7483a86576656e745f6964%02xa46461746181a673746f72656483" +
		"ab706172656e745f68617368c0ae73746172745f706f736974696f6ec0a6626c6f636b7392" + fmt.Sprintf(block+block, 1, 3, 2, 4) + "a764705f72616e6b00"
	for _, c := range []struct {
		start int
		want  string
	}{
		{-1, "81a854726565" + "44756d7083a66576656e747391" + fmt.Sprintf(event, 0) + "ad6c6173745f6576656e745f696401ab72657365745f73636f7065a3616c6c"},
		{1, "81a64576656e747382a66576656e747391" + fmt.Sprintf(event, 1) + "ad6c6173745f6576656e745f696401"},
		{2, "81a6546f6f4e657783af7265717565737465645f737461727402ad7265717565737465645f656e6401b06e65776573745f617661696c61626c6501"},
	} {
		got, err := queryFrom(t, h, c.start).MarshalMsgpack()
		if hex.EncodeToString(got) != c.want || err != nil {
			t.Errorf("answer from %d: %x, error %v, want %s", c.start, got, err, c.want)
		}
	}
}

func TestParts(t *testing.T) {
	t.Parallel()
	hashes := make([]uint64, 2*maxEventBlocks+1)
	for i := range hashes {
		hashes[i] = uint64(i) + 1
	}
	whole := storedBlocks(99_999, hashes...)
	whole.StartPosition, whole.Media = kvevents.Some(uint32(5)), make([][]kvevents.MediaObject, len(hashes))
	var got []string
	var tree Tree
	for e := range parts(&whole) {
		got = append(got, fmt.Sprint(len(e.Hashes), len(e.TokensHashes), len(e.Media), e.Hashes[0], e.Parent.Value, e.StartPosition.Value))
		tree.Apply(e)
	}
	if want := []string{"8192 8192 8192 1 99999 5", "8192 8192 8192 8193 8192 8197", "1 1 1 16385 16384 16389"}; !slices.Equal(got, want) {
		t.Errorf("parts %q, want %q", got, want)
	}
	gone := removedBlocks(hashes...)
	for e := range parts(&gone) {
		if len(e.Hashes) > maxEventBlocks || e.Parent.Present {
			t.Errorf("%d blocks are removed, parent %v", len(e.Hashes), e.Parent)
		}
		tree.Apply(e)
	}
	if tree.Len() != 0 {
		t.Errorf("%d blocks are left", tree.Len())
	}
	whole.TokensHashes = whole.TokensHashes[1:]
	for e := range parts(&whole) {
		if e != &whole {
			t.Error("an invalid event is divided")
		}
	}
}

func TestArrays(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "90", 15: "9f", 16: "dc0010", 65535: "dcffff", 65536: "dd00010000"} {
		if got := hex.EncodeToString(appendArray(nil, n)); got != want {
			t.Errorf("header of %d elements %s, want %s", n, got, want)
		}
	}
}
