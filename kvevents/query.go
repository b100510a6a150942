package kvevents

import (
	"bytes"
	"fmt"
	"math"
	"slices"
)

// StateQuery is a router's request to a worker for the state of one rank. It encodes
// and decodes itself in msgpack and JSON.
type StateQuery struct {
	Worker uint64
	Rank   uint32

	// Start is the id of the first event that is requested, or absent for all state.
	// End is only validated: answers contain everything up to the newest event.
	Start, End Optional[uint64]

	// DumpFailed declares that the router accepts AnswerTreeDumpFailed. Routers
	// before Dynamo 1.4 do not.
	DumpFailed bool

	// Kind is "recovery", for which it may be empty, or a kind that only Dynamo's
	// state agents answer.
	Kind string

	Extra []Field // fields that this package does not define, and the content of Kind; not encoded
}

// queryKind is the kind of all queries of routers to workers.
const queryKind = "recovery"

// MarshalMsgpack encodes v.
func (v StateQuery) MarshalMsgpack() ([]byte, error) {
	if v.Kind != "" && v.Kind != queryKind {
		return nil, fmt.Errorf("kvevents: encode state query: kind %.64q: want %s", v.Kind, queryKind)
	}
	w := writer{}
	w.object(6)
	w.key("worker_id").uint(v.Worker)
	w.key("dp_rank").uint(uint64(v.Rank))
	optional(w.key("start_event_id"), v.Start)
	optional(w.key("end_event_id"), v.End)
	w.key("supports_tree_dump_failed").bool(v.DumpFailed)
	w.key("kind").string(queryKind)
	return w.b, nil
}

// UnmarshalMsgpack decodes v, from msgpack or JSON. The error is a *[DecodeError].
func (v *StateQuery) UnmarshalMsgpack(data []byte) error {
	*v = StateQuery{Kind: queryKind}
	return decodeMap(data, v.member, func(d *Decoder) {
		d.missing(seenWorker, "worker_id")
		d.missing(seenID, "dp_rank")
		v.Extra = cloneFields(d.ev.Extra)
	})
}

func (v *StateQuery) member(d *Decoder, name string) {
	switch name {
	case "worker_id":
		d.seen |= seenWorker
		v.Worker, _ = d.uint(name, math.MaxUint64)
	case "dp_rank":
		d.seen |= seenID
		rank, _ := d.uint(name, math.MaxUint32)
		v.Rank = uint32(rank)
	case "start_event_id":
		v.Start = d.optionalUint(name)
	case "end_event_id":
		v.End = d.optionalUint(name)
	case "supports_tree_dump_failed":
		v.DumpFailed = d.bool(name)
	case "kind":
		if n, ok := d.r.object(); ok && n == 1 {
			v.Kind = d.requiredString(name)
			d.extra(name)
		} else if !ok {
			v.Kind = d.requiredString(name)
		} else {
			d.fail(ReasonType, name, "a string, or a map of one pair")
			for range 2 * n {
				d.r.skip()
			}
		}
	default:
		d.extra(name)
	}
}

// MarshalJSON encodes v.
func (v StateQuery) MarshalJSON() ([]byte, error) { return marshalJSON(v.MarshalMsgpack()) }

// UnmarshalJSON decodes v.
func (v *StateQuery) UnmarshalJSON(data []byte) error { return v.UnmarshalMsgpack(data) }

// AnswerKind is the kind of a [StateAnswer].
type AnswerKind uint8

// The kinds. The fields that belong to each are in parentheses.
const (
	AnswerUnknown        AnswerKind = iota // a kind that this package does not define
	AnswerEvents                           // the events from Start of the query on (Events, LastID)
	AnswerTreeDump                         // all state, as events (Events, LastID, Domain)
	AnswerTreeDumpFailed                   // the state could not be determined (LastID, Message)
	AnswerTooNew                           // Start is beyond the newest event (Start, End, Newest)
	AnswerInvalidRange                     // End is below Start (Start, End)
	AnswerError                            // another error (Message)
)

// answerTags are the kinds on the wire.
var answerTags = [...]string{"", "Events", "TreeDump", "TreeDumpFailed", "TooNew", "InvalidRange", "Error"}

// String returns the name of k on the wire.
func (k AnswerKind) String() string {
	if k == AnswerUnknown || int(k) >= len(answerTags) {
		return "unknown"
	}
	return answerTags[k]
}

// StateAnswer is a worker's answer to a [StateQuery], always a single item. It
// encodes and decodes itself in msgpack and JSON.
//
// Decode an answer with UnmarshalMsgpack, which takes both and has no limit of size:
// the events of 700,000 blocks are 36 MB. The codecs refuse an answer of more than
// about 80,000 blocks.
type StateAnswer struct {
	Kind AnswerKind
	Tag  string // kind on the wire

	// Events are events of the worker, for [Decoder.Router] or from
	// [AppendRouterEvents]: one array in msgpack, also if the answer is in JSON. Ids
	// in a TreeDump have no meaning, and may be followed by real ones.
	Events []byte
	LastID uint64 // id of the newest event that Events include, or 0

	Domain     string // residency domain of a TreeDump, or empty if it is the whole state
	Message    string
	Start, End Optional[uint64]
	Newest     uint64
}

// MarshalMsgpack encodes v. Events must be one array in msgpack, or empty for none.
func (v StateAnswer) MarshalMsgpack() ([]byte, error) {
	w := writer{make([]byte, 0, len(v.Events)+128)}
	w.object(1)
	w.string(v.Kind.String())
	switch v.Kind {
	case AnswerEvents:
		w.object(2)
		w.events(&v)
	case AnswerTreeDump:
		w.object(3)
		w.events(&v)
		w.key("reset_scope")
		if v.Domain == "" {
			w.string("all")
		} else {
			w.object(1)
			w.key("domain").string(v.Domain)
		}
	case AnswerTreeDumpFailed:
		w.object(2)
		w.key("last_event_id").uint(v.LastID)
		w.key("message").string(v.Message)
	case AnswerTooNew:
		w.object(3)
		optional(w.key("requested_start"), v.Start)
		optional(w.key("requested_end"), v.End)
		w.key("newest_available").uint(v.Newest)
	case AnswerInvalidRange:
		w.object(2)
		w.key("start_id").uint(v.Start.Value)
		w.key("end_id").uint(v.End.Value)
	case AnswerError:
		w.string(v.Message)
	default:
		return nil, fmt.Errorf("kvevents: encode state answer: unknown kind %.64q: want a known one", v.Tag)
	}
	return w.b, nil
}

func (w *writer) events(v *StateAnswer) {
	w.key("events")
	if len(v.Events) == 0 {
		w.array(0)
	} else {
		w.raw(v.Events)
	}
	w.key("last_event_id").uint(v.LastID)
}

// UnmarshalMsgpack decodes v, from msgpack or JSON. The error is a *[DecodeError].
func (v *StateAnswer) UnmarshalMsgpack(data []byte) error {
	*v = StateAnswer{}
	d := Decoder{MaxBytes: math.MaxInt}
	data, err := d.msgpack(data)
	if err != nil {
		return err
	}
	d.start(data, nil)
	if n, ok := d.r.object(); !ok || n != 1 {
		return &DecodeError{Reason: ReasonShape, Want: "a map of one pair"}
	}
	v.Tag = d.requiredString("")
	v.Kind = AnswerKind(max(0, slices.Index(answerTags[:], v.Tag)))
	switch v.Kind {
	case AnswerUnknown:
		return d.err()
	case AnswerError:
		v.Message = d.requiredString(v.Tag)
		return d.err()
	}
	d.eachMember(v.Tag, v.member)
	if v.Kind == AnswerEvents || v.Kind == AnswerTreeDump {
		d.missing(seenBlock, "events")
	}
	if v.Kind <= AnswerTreeDumpFailed {
		d.missing(seenID, "last_event_id")
	}
	v.Events = bytes.Clone(v.Events)
	return d.err()
}

func (v *StateAnswer) member(d *Decoder, name string) {
	switch name {
	case "events":
		if d.r.kind() != kindArray {
			d.failSkip(name, "an array of events")
			return
		}
		d.seen |= seenBlock
		begin := d.r.pos
		d.r.skip()
		v.Events = d.r.data[begin:d.r.pos]
	case "last_event_id":
		d.seen |= seenID
		v.LastID, _ = d.uint(name, math.MaxUint64)
	case "reset_scope":
		v.scope(d)
	case "message":
		v.Message = d.string(name)
	case "requested_start", "start_id":
		v.Start = d.optionalUint(name)
	case "requested_end", "end_id":
		v.End = d.optionalUint(name)
	case "newest_available":
		v.Newest, _ = d.uint(name, math.MaxUint64)
	default:
		d.keep(name)
	}
}

// scope reads the scope of a dump: "all", or a map that names a domain.
func (v *StateAnswer) scope(d *Decoder) {
	if text, ok := d.r.bytes(kindStr); ok {
		if string(text) != "all" {
			d.fail(ReasonRange, "reset_scope", "all, or a domain")
		}
		return
	}
	d.eachMember("reset_scope", func(d *Decoder, name string) {
		if v.Domain = d.requiredString("reset_scope"); name != "domain" || v.Domain == "" {
			d.fail(ReasonRange, "reset_scope", "all, or a domain")
		}
	})
	if v.Domain == "" {
		d.fail(ReasonMissing, "reset_scope", "a domain")
	}
}

// MarshalJSON encodes v.
func (v StateAnswer) MarshalJSON() ([]byte, error) { return marshalJSON(v.MarshalMsgpack()) }

// UnmarshalJSON decodes v.
func (v *StateAnswer) UnmarshalJSON(data []byte) error { return v.UnmarshalMsgpack(data) }
