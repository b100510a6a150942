package kvevents

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// SequenceKind is the kind of an [ActiveSequence].
type SequenceKind uint8

// The kinds.
const (
	// SequenceUnknown is a kind that this package does not define, or an event that
	// is invalid. Of its fields only Tag, Raw and Problem are set.
	SequenceUnknown SequenceKind = iota

	SequenceAdded            // a router has sent a request to a worker
	SequencePrefillCompleted // its first token has been produced
	SequenceFreed            // it has ended
)

// sequenceTags are the kinds on the wire.
var sequenceTags = [...]string{"", "AddRequest", "MarkPrefillCompleted", "Free"}

// String returns the name of k on the wire.
func (k SequenceKind) String() string {
	if k == SequenceUnknown {
		return "unknown"
	}
	return sequenceTags[k]
}

// ActiveSequence is an event of Dynamo's topic active_sequences_events, by which
// routers share what their workers are occupied with.
type ActiveSequence struct {
	Kind      SequenceKind
	Tag       string // kind on the wire
	RequestID string
	Worker    uint64
	Rank      uint32
	Router    uint64 // id of the router that published the event
	LoRAName  string

	// The fields below belong to SequenceAdded.

	Hashes             []uint64 // sequence hashes of the blocks of the prompt; nil if the router does not track them
	TrackPrefillTokens bool
	ExpectedOutput     Optional[uint32]        // tokens
	PrefillTokens      Optional[uint64]        // tokens that are not in the worker's cache
	PrefillDuration    Optional[time.Duration] // expected; encoded only with PrefillTokens

	Extra   []Field // fields that this package does not define, which are not encoded
	Raw     []byte  // the event as it was sent, in msgpack
	Problem *DecodeError
}

// ActiveSequences is the payload of the topic active_sequences_events as a Go value.
// It decodes a batch of events, which Dynamo publishes over ZMQ, or a single one,
// which it publishes over NATS, and encodes as a batch.
type ActiveSequences []ActiveSequence

// MarshalMsgpack encodes a batch. Dynamo's have at most 256 events.
func (v ActiveSequences) MarshalMsgpack() ([]byte, error) {
	w := writer{}
	w.object(1)
	w.key("events").array(len(v))
	for i := range v {
		if err := w.sequence(&v[i]); err != nil {
			return nil, err
		}
	}
	return w.b, nil
}

// MarshalJSON encodes a batch.
func (v ActiveSequences) MarshalJSON() ([]byte, error) { return marshalJSON(v.MarshalMsgpack()) }

// AppendActiveSequence appends a single event in msgpack, and returns the extended
// buffer. With an error, dst is returned unchanged.
func AppendActiveSequence(dst []byte, s *ActiveSequence) ([]byte, error) {
	w := writer{dst}
	if err := w.sequence(s); err != nil {
		return dst, err
	}
	return w.b, nil
}

func (w *writer) sequence(s *ActiveSequence) error {
	if s.Kind == SequenceUnknown || int(s.Kind) >= len(sequenceTags) {
		return fmt.Errorf("kvevents: encode active sequence %.64q: unknown kind %.64q: want a known one", s.RequestID, s.Tag)
	}
	w.object(5)
	w.key("request_id").string(s.RequestID)
	w.key("worker").object(2)
	w.key("worker_id").uint(s.Worker)
	w.key("dp_rank").uint(uint64(s.Rank))
	w.key("data")
	if s.Kind == SequenceAdded {
		w.object(1)
		w.string(sequenceTags[s.Kind])
		w.added(s)
	} else {
		w.string(sequenceTags[s.Kind])
	}
	w.key("router_id").uint(s.Router)
	w.key("lora_name")
	if s.LoRAName == "" {
		w.nil()
	} else {
		w.string(s.LoRAName)
	}
	return nil
}

func (w *writer) added(s *ActiveSequence) {
	w.object(4)
	w.key("token_sequence")
	if s.Hashes == nil {
		w.nil()
	} else {
		w.hashes(s.Hashes)
	}
	w.key("track_prefill_tokens").bool(s.TrackPrefillTokens)
	optional(w.key("expected_output_tokens"), s.ExpectedOutput)
	w.key("prefill_load_hint")
	if !s.PrefillTokens.Present {
		w.nil()
		return
	}
	w.object(2)
	w.key("initial_effective_prefill_tokens").uint(s.PrefillTokens.Value)
	w.key("expected_prefill_duration")
	if !s.PrefillDuration.Present {
		w.nil()
		return
	}
	duration := max(0, s.PrefillDuration.Value)
	w.object(2)
	w.key("secs").uint(uint64(duration / time.Second))
	w.key("nanos").uint(uint64(duration % time.Second))
}

// UnmarshalMsgpack decodes a batch or a single event, from msgpack or JSON. An
// invalid event becomes SequenceUnknown with a Problem. The error is a
// *[DecodeError] and concerns the payload as a whole.
func (v *ActiveSequences) UnmarshalMsgpack(data []byte) error {
	var d Decoder
	data, err := d.msgpack(slices.Clone(data))
	if err != nil {
		return err
	}
	*v = nil
	d.start(data, nil)
	n, ok := d.r.object()
	if !ok {
		return &DecodeError{Reason: ReasonShape, Want: "a map: an event or a batch of events"}
	}
	for range n {
		if name, _ := d.r.bytes(kindStr); string(name) == "events" {
			if count, ok := d.r.array(); ok && count > maxValues {
				return tooMany(maxValues)
			} else if ok {
				v.decode(&d, count)
				return nil
			}
		} else if name == nil {
			d.r.skip()
		}
		d.r.skip()
	}
	d.r.pos = 0
	v.decode(&d, 1)
	return nil
}

// UnmarshalJSON decodes a batch or a single event.
func (v *ActiveSequences) UnmarshalJSON(data []byte) error { return v.UnmarshalMsgpack(data) }

// decode decodes n events at the present position.
func (v *ActiveSequences) decode(d *Decoder, n int) {
	for range n {
		s := ActiveSequence{TrackPrefillTokens: true}
		d.ev, d.seen, d.problem = Event{}, 0, DecodeError{}
		begin := d.r.pos
		d.eachMember("", s.member)
		d.missing(seenID, "request_id")
		d.missing(seenWorker, "worker")
		d.missing(seenData, "data")
		s.Hashes, s.Extra = d.ev.Hashes, d.ev.Extra
		s.Raw = d.r.data[begin:d.r.pos:d.r.pos]
		if s.Kind == SequenceUnknown || d.problem.Reason != 0 {
			s = ActiveSequence{Tag: s.Tag, Raw: s.Raw}
		}
		if d.problem.Reason != 0 {
			s.Problem = new(d.problem)
		}
		*v = append(*v, s)
	}
}

func (s *ActiveSequence) member(d *Decoder, name string) {
	switch name {
	case "request_id":
		d.seen |= seenID
		s.RequestID = d.requiredString(name)
	case "worker":
		d.seen |= seenWorker
		d.eachMember(name, func(d *Decoder, name string) {
			switch name {
			case "worker_id":
				s.Worker, _ = d.uint(name, math.MaxUint64)
			case "dp_rank":
				s.Rank = d.optionalUint32(name).Value
			default:
				d.extra(name)
			}
		})
	case "router_id":
		s.Router, _ = d.uint(name, math.MaxUint64)
	case "lora_name":
		s.LoRAName = d.string(name)
	case "data":
		d.seen |= seenData
		s.data(d)
	default:
		d.extra(name)
	}
}

// data reads one variant: a string, or a map of one pair.
func (s *ActiveSequence) data(d *Decoder) {
	begin := d.r.pos
	n, isMap := d.r.object()
	if isMap && n != 1 {
		d.r.pos = begin
		d.failSkip("data", "a string, or a map of one pair")
		return
	}
	s.Tag = d.requiredString("data")
	s.Kind = SequenceKind(max(0, slices.Index(sequenceTags[:], s.Tag)))
	switch {
	case isMap && s.Kind == SequenceAdded:
		d.eachMember(s.Tag, s.request)
	case isMap:
		d.keep("data")
	case s.Kind == SequenceAdded:
		d.fail(ReasonMissing, "data", "the content of AddRequest")
	}
}

func (s *ActiveSequence) request(d *Decoder, name string) {
	switch name {
	case "token_sequence":
		if d.r.nil() {
			d.ev.Hashes = nil
		} else if d.hashes(name); d.ev.Hashes == nil {
			d.ev.Hashes = []uint64{} // empty, but tracked
		}
	case "track_prefill_tokens":
		s.TrackPrefillTokens = d.bool(name)
	case "expected_output_tokens":
		s.ExpectedOutput = d.optionalUint32(name)
	case "prefill_load_hint":
		if !d.r.nil() {
			d.eachMember(name, s.hint)
		}
	default:
		d.extra(name)
	}
}

func (s *ActiveSequence) hint(d *Decoder, name string) {
	switch name {
	case "initial_effective_prefill_tokens":
		tokens, ok := d.uint(name, math.MaxUint64)
		s.PrefillTokens = Optional[uint64]{tokens, ok}
	case "expected_prefill_duration":
		if d.r.nil() {
			return
		}
		var secs, nanos uint64
		d.eachMember(name, func(d *Decoder, name string) {
			switch name {
			case "secs":
				secs, _ = d.uint(name, math.MaxUint64)
			case "nanos":
				nanos, _ = d.uint(name, uint64(time.Second)-1)
			default:
				d.extra(name)
			}
		})
		duration := time.Duration(math.MaxInt64) // 292 years, if it is longer
		if secs < math.MaxInt64/uint64(time.Second) {
			duration = time.Duration(secs)*time.Second + time.Duration(nanos)
		}
		s.PrefillDuration = Some(duration)
	default:
		d.extra(name)
	}
}
