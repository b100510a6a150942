package kvevents

import (
	"math"
	"slices"
)

// ActiveLoad is an event of Dynamo's topic kv_metrics: the load of one rank of a
// worker, as a gauge. It encodes and decodes itself in msgpack and JSON.
type ActiveLoad struct {
	Worker              uint64
	Rank                uint32
	ActiveDecodeBlocks  Optional[uint64] // blocks of the sequences that are being decoded
	ActivePrefillTokens Optional[uint64] // tokens that wait for, or are in, prefill
	KVUsedBlocks        Optional[uint64] // blocks in use, from workers only

	Extra []Field // fields that this package does not define, which are not encoded
}

// MarshalMsgpack encodes v.
func (v ActiveLoad) MarshalMsgpack() ([]byte, error) {
	w := writer{}
	w.object(5)
	w.key("worker_id").uint(v.Worker)
	w.key("dp_rank").uint(uint64(v.Rank))
	optional(w.key("active_decode_blocks"), v.ActiveDecodeBlocks)
	optional(w.key("active_prefill_tokens"), v.ActivePrefillTokens)
	optional(w.key("kv_used_blocks"), v.KVUsedBlocks)
	return w.b, nil
}

// UnmarshalMsgpack decodes v, from msgpack or JSON. The error is a *[DecodeError].
func (v *ActiveLoad) UnmarshalMsgpack(data []byte) error {
	*v = ActiveLoad{}
	return decodeMap(data, func(d *Decoder, name string) {
		switch name {
		case "worker_id":
			d.seen |= seenWorker
			v.Worker, _ = d.uint(name, math.MaxUint64)
		case "dp_rank":
			v.Rank = d.optionalUint32(name).Value
		case "active_decode_blocks":
			v.ActiveDecodeBlocks = d.optionalUint(name)
		case "active_prefill_tokens":
			v.ActivePrefillTokens = d.optionalUint(name)
		case "kv_used_blocks":
			v.KVUsedBlocks = d.optionalUint(name)
		default:
			d.extra(name)
		}
	}, func(d *Decoder) {
		d.missing(seenWorker, "worker_id")
		v.Extra = cloneFields(d.ev.Extra)
	})
}

// MarshalJSON encodes v.
func (v ActiveLoad) MarshalJSON() ([]byte, error) { return marshalJSON(v.MarshalMsgpack()) }

// UnmarshalJSON decodes v.
func (v *ActiveLoad) UnmarshalJSON(data []byte) error { return v.UnmarshalMsgpack(data) }

func (d *Decoder) optionalUint(name string) Optional[uint64] {
	if d.r.nil() {
		return Optional[uint64]{}
	}
	v, ok := d.uint(name, math.MaxUint64)
	return Optional[uint64]{v, ok}
}

// decodeMap decodes a payload that is one map: member is called for each member,
// and finish at the end. It returns the first problem.
func decodeMap(payload []byte, member func(*Decoder, string), finish func(*Decoder)) error {
	var d Decoder
	data, err := d.msgpack(payload)
	if err != nil {
		return err
	}
	d.start(data, nil)
	d.eachMember("", member)
	finish(&d)
	return d.err()
}

// err returns the problem, if any.
func (d *Decoder) err() error {
	if d.problem.Reason == 0 {
		return nil
	}
	return new(d.problem)
}

// loadStatTag is the first element of a LoadStat.
const loadStatTag = "LoadStat"

// LoadStat is a message of SGLang's load stream: the load of one rank, as a gauge.
// SGLang sends changed values at once and all values every second, from 0.5.19 on.
// The Optional fields were added in 0.5.20.
type LoadStat struct {
	RunningRequests int64
	WaitingRequests int64
	Tokens          int64 // tokens in use
	MaxTokens       int64
	Rank            uint32

	WaitingUncachedTokens Optional[int64]
	TotalTokens           Optional[int64]
	MaxRunningRequests    Optional[int64]
	PrefillUncachedTokens Optional[int64] // since the start of the engine
	PrefillBusyMicros     Optional[int64] // microseconds since the start of the engine

	Extra []Field // elements that this package does not define
}

// UnmarshalMsgpack decodes v. The error is a *[DecodeError].
func (v *LoadStat) UnmarshalMsgpack(data []byte) error {
	*v = LoadStat{}
	var d Decoder
	if err := d.checkSize(data); err != nil {
		return err
	}
	if err := scanAll(data); err != nil {
		return err
	}
	d.start(data, nil)
	n, ok := d.r.array()
	tag := []byte(nil)
	if ok && n > 0 {
		tag, _ = d.r.bytes(kindStr)
	}
	if string(tag) != loadStatTag || n < 6 {
		return &DecodeError{Reason: ReasonShape, Want: "a LoadStat array of 6 or more elements"}
	}
	for _, p := range []*int64{&v.RunningRequests, &v.WaitingRequests, &v.Tokens, &v.MaxTokens} {
		*p = d.int64(loadStatTag).Value
	}
	rank, _ := d.uint("rank", math.MaxUint32)
	v.Rank = uint32(rank)
	later := []*Optional[int64]{&v.WaitingUncachedTokens, &v.TotalTokens, &v.MaxRunningRequests, &v.PrefillUncachedTokens, &v.PrefillBusyMicros}
	for i := 6; i < n; i++ {
		switch {
		case i-6 < len(later):
			*later[i-6] = d.int64(loadStatTag)
		case i < len(positions):
			d.extra(positions[i])
		default:
			d.r.skip()
		}
	}
	v.Extra = cloneFields(slices.Clip(d.ev.Extra))
	return d.err()
}

// int64 reads an integer or nil.
func (d *Decoder) int64(name string) Optional[int64] {
	begin := d.r.pos
	if d.r.nil() {
		return Optional[int64]{}
	}
	v, negative, ok := d.r.int()
	if !ok || !negative && v > math.MaxInt64 {
		d.r.pos = begin
		d.failSkip(name, "an integer of 64 bits")
		return Optional[int64]{}
	}
	return Some(int64(v))
}
