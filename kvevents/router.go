package kvevents

import (
	"math"
	"slices"
)

// Router begins with a payload of Dynamo's topic kv-events: an array of events, as
// Dynamo 1.4 and later publish, or a single one, in msgpack or JSON. The events of a
// worker's answer to a state query have the same form. The events follow from
// [Decoder.Events].
//
// The error is a *[DecodeError]. It concerns the payload as a whole, which then has
// no events. In JSON, offsets of later problems are those in msgpack.
func (d *Decoder) Router(payload []byte) (Batch, error) {
	data, err := d.msgpack(payload)
	if err != nil {
		d.left = 0
		return Batch{}, err
	}
	d.start(data, (*Decoder).routerEvent)
	switch n, ok := d.r.array(); {
	case ok:
		d.batch.Len = n
	case d.r.kind() == kindMap:
		d.batch.Len = 1
	default:
		return Batch{}, &DecodeError{Reason: ReasonShape, Want: "an event or an array of events"}
	}
	d.left = d.batch.Len
	return d.batch, nil
}

// The fields that a RouterEvent requires.
const (
	seenWorker = 1 << iota
	seenEvent
	seenID
	seenData
	seenBlock
)

func (d *Decoder) missing(bit uint32, field string) {
	if d.seen&bit == 0 {
		d.fail(ReasonMissing, field, "all required fields")
	}
}

// eachMember reads a map and calls value for each of its members. If the value at
// the present position is no map, it records a problem.
func (d *Decoder) eachMember(field string, value func(*Decoder, string)) {
	n, ok := d.r.object()
	if !ok {
		d.failSkip(field, "a map")
		return
	}
	for range n {
		name, ok := d.r.bytes(kindStr)
		if !ok {
			d.failSkip(field, "keys that are strings")
			d.r.skip()
			continue
		}
		value(d, d.str(name))
	}
}

func (d *Decoder) routerEvent() {
	d.ev.Medium = TierDevice.String()
	d.eachMember("", (*Decoder).routerMember)
	d.missing(seenWorker, "worker_id")
	d.missing(seenEvent, "event")
}

func (d *Decoder) routerMember(name string) {
	e := &d.ev
	switch name {
	case "worker_id":
		d.seen |= seenWorker
		e.Worker, _ = d.uint(name, math.MaxUint64)
	case "storage_tier":
		e.Medium = d.requiredString(name)
	case "residency_domain":
		e.Domain = d.requiredString(name) // nil is not the same as none: it must not clear all domains
	case "session_id":
		d.label(&e.Session, name)
	case "event":
		d.seen |= seenEvent
		d.seen &^= seenID | seenData
		e.Rank = Some(uint32(0))
		d.eachMember(name, (*Decoder).routerInner)
		d.missing(seenID, "event_id")
		d.missing(seenData, "data")
	default:
		d.extra(name)
	}
}

func (d *Decoder) requiredString(name string) string {
	b, ok := d.r.bytes(kindStr)
	if !ok {
		d.failSkip(name, "a string")
	}
	return d.str(b)
}

func (d *Decoder) routerInner(name string) {
	e := &d.ev
	switch name {
	case "event_id":
		d.seen |= seenID
		e.ID, _ = d.uint(name, math.MaxUint64)
	case "dp_rank":
		rank, _ := d.uint(name, math.MaxUint32)
		e.Rank = Some(uint32(rank))
	case "data":
		d.seen |= seenData
		d.routerData()
	default:
		d.extra(name)
	}
}

// routerData reads one variant: a string without content, or a map of one pair.
func (d *Decoder) routerData() {
	e, r := &d.ev, &d.r
	if tag, ok := r.bytes(kindStr); ok {
		e.Tag = d.str(tag)
		if e.Kind = Unknown; e.Tag == "cleared" {
			e.Kind = Cleared
		}
		return
	}
	begin := r.pos
	if n, ok := r.object(); !ok || n != 1 {
		r.pos = begin
		d.failSkip("data", "a string, or a map of one pair")
		return
	}
	e.Tag = d.requiredString("data")
	switch e.Tag {
	case "stored":
		e.Kind = Stored
		e.Hashes, e.TokensHashes, e.Media = e.Hashes[:0], e.TokensHashes[:0], e.Media[:0]
		d.eachMember(e.Tag, (*Decoder).routerStored)
		d.missing(seenBlock, "blocks")
	case "removed":
		e.Kind = Removed
		d.eachMember(e.Tag, (*Decoder).routerRemoved)
		d.missing(seenBlock, "block_hashes")
	case "cleared":
		e.Kind = Cleared
		r.skip()
	default:
		e.Kind = Unknown
		r.skip()
	}
}

func (d *Decoder) routerRemoved(name string) {
	if name != "block_hashes" {
		d.extra(name)
		return
	}
	d.seen |= seenBlock
	d.hashes(name)
}

func (d *Decoder) routerStored(name string) {
	e := &d.ev
	switch name {
	case "parent_hash":
		d.parent(name)
	case "start_position":
		e.StartPosition = d.optionalUint32(name)
	case "blocks":
		d.seen |= seenBlock
		d.routerBlocks()
	default:
		d.extra(name)
	}
}

func (d *Decoder) routerBlocks() {
	e, r := &d.ev, &d.r
	n, ok := r.array()
	if !ok {
		d.failSkip("blocks", "an array")
		return
	}
	e.Hashes, e.TokensHashes, e.Media = slices.Grow(e.Hashes[:0], n), slices.Grow(e.TokensHashes[:0], n), e.Media[:0]
	for i := range n {
		d.routerBlock(i)
	}
	for len(e.Media) > 0 && len(e.Media) < n {
		e.Media = append(e.Media, nil)
	}
}

// routerBlock reads the block i.
func (d *Decoder) routerBlock(i int) {
	e, r := &d.ev, &d.r
	members, ok := r.object()
	if !ok {
		d.failSkip("blocks", "a map")
		return
	}
	var hash, tokens uint64
	var hasHash, hasTokens bool
	for range members {
		name, ok := r.bytes(kindStr)
		if !ok {
			d.failSkip("blocks", "keys that are strings")
			r.skip()
			continue
		}
		switch string(name) {
		case "block_hash":
			hash, hasHash = d.integer("block_hash")
		case "tokens_hash":
			tokens, hasTokens = d.integer("tokens_hash")
		case "mm_extra_info":
			if !r.nil() {
				for len(e.Media) <= i {
					e.Media = append(e.Media, nil)
				}
				if e.Media[i], ok = d.mediaObjects(); !ok {
					d.failSkip("mm_extra_info", "a map of multimodal objects, or nil")
				}
			}
		default:
			d.extra(d.str(name))
		}
	}
	if !hasHash || !hasTokens {
		d.fail(ReasonMissing, "blocks", "block_hash and tokens_hash in each")
	}
	e.Hashes, e.TokensHashes = append(e.Hashes, hash), append(e.TokensHashes, tokens)
}

// integer reads a hash that is an integer.
func (d *Decoder) integer(name string) (uint64, bool) {
	v, _, ok := d.r.int()
	if !ok {
		d.failSkip(name, "an integer")
	}
	return v, ok
}
