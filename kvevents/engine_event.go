package kvevents

import (
	"math"
	"strconv"
)

// engineEvent decodes the event at r.pos.
func (d *Decoder) engineEvent() {
	e, r := &d.ev, &d.r
	if n, ok := r.object(); ok {
		for range n {
			d.engineMember()
		}
		d.finishMap()
		return
	}
	n, ok := r.array()
	if !ok || n == 0 {
		d.fail(ReasonShape, "", "an event: an array or a map")
		if !ok {
			r.skip()
		}
		return
	}
	d.tag()
	if e.Tag == "" {
		d.fail(ReasonMissing, "type", "an event with a type")
	}
	layout, least := []field(nil), 1
	switch e.Kind {
	case Stored:
		layout, least = storedFields[:], 5
	case Removed:
		layout, least = removedFields[:], 2
	case Cleared:
		layout = clearedFields[:]
	}
	if n < least {
		d.fail(ReasonMissing, "", "an event with all required elements")
	}
	for i := 1; i < n; i++ {
		switch {
		case e.Kind == Unknown:
			r.skip()
		case i < len(layout):
			d.engineField(layout[i], positions[i])
		case i < len(positions):
			d.extra(positions[i])
		default:
			d.extra(strconv.Itoa(i))
		}
	}
}

// engineMember decodes a key and its value.
func (d *Decoder) engineMember() {
	name, ok := d.r.bytes(kindStr)
	if !ok {
		d.keep("") // a key that is not a string
		d.extra("")
		return
	}
	f := fieldOf(name)
	d.seen |= 1 << f
	if f == fieldExtra {
		d.extra(d.str(name))
		return
	}
	d.engineField(f, "")
}

// finishMap checks that a map had the fields that its type requires.
func (d *Decoder) finishMap() {
	e := &d.ev
	const hashes = 1<<fieldHashes | 1<<fieldSeqHashes
	missing := ""
	switch {
	case e.Kind == Unknown || e.Kind == Cleared:
	case d.seen&hashes == 0:
		missing = "block_hashes"
	case e.Kind == Removed || d.seen&(1<<fieldSeqHashes) != 0:
	case d.seen&(1<<fieldTokens) == 0:
		missing = "token_ids"
	case d.seen&(1<<fieldBlockSize) == 0:
		missing = "block_size"
	}
	if e.Tag == "" {
		missing = "type"
	}
	if missing != "" {
		d.fail(ReasonMissing, missing, "an event with all required fields")
	} else if e.Kind == Unknown {
		d.problem = DecodeError{} // its fields may have other types
	}
}

// engineField decodes the value of a field. A value of an unexpected type makes the
// event invalid if the field identifies blocks; otherwise it is kept in Extra.
func (d *Decoder) engineField(f field, name string) {
	e := &d.ev
	switch f {
	case fieldTag:
		d.tag()
	case fieldHashes, fieldSeqHashes:
		d.blockHashes(f, name)
	case fieldParent:
		d.parent("parent_block_hash")
	case fieldTokens:
		d.tokens("token_ids")
	case fieldBlockSize:
		e.BlockSize = d.optionalUint32("block_size").Value
	case fieldMedium:
		e.Medium = d.string("medium")
	case fieldGroup:
		d.group(name)
	case fieldRank:
		if rank := d.optionalUint32("dp_rank"); rank.Present {
			e.Rank = rank
		}
	default:
		if name == "" {
			name = fieldNames[f]
		}
		d.auxiliary(f, name)
	}
}

// auxiliary decodes a field that does not identify blocks.
func (d *Decoder) auxiliary(f field, name string) {
	e := &d.ev
	switch f {
	case fieldLoRAID:
		d.loraID(name)
	case fieldLoRAName:
		if d.r.kind() == kindMap {
			d.loraMap()
			return
		}
		d.label(&e.LoRAName, name)
	case fieldSpecKind:
		d.label(&e.SpecKind, name)
	case fieldLocality:
		d.label(&e.Locality, name)
	case fieldOwnership:
		d.label(&e.Ownership, name)
	case fieldSession:
		d.label(&e.Session, name)
	case fieldSalt:
		d.label(&e.Salt, name)
	case fieldWindow:
		e.SlidingWindow = Optional[uint32]{}
		if v, ok := d.number(math.MaxUint32, name); ok {
			e.SlidingWindow = Some(uint32(v))
		}
	case fieldID:
		e.ID, _ = d.number(math.MaxUint64, name)
	case fieldExtraKeys:
		e.ExtraKeys = d.keep(name)
	case fieldLookahead:
		e.Lookahead = d.keep(name)
	case fieldMedia:
		begin := d.r.pos
		if !d.r.nil() && !d.media() {
			d.r.pos = begin
			e.Media = e.Media[:0]
			d.extra(name)
		}
	}
}

func (d *Decoder) tag() {
	e := &d.ev
	e.Tag = d.string("type")
	switch e.Tag {
	case "BlockStored", "stored":
		e.Kind = Stored
	case "BlockRemoved", "removed":
		e.Kind = Removed
	case "AllBlocksCleared", "cleared":
		e.Kind = Cleared
	default:
		e.Kind = Unknown
	}
}

// label reads a string or nil into p.
func (d *Decoder) label(p *string, name string) {
	*p = ""
	if b, ok := d.r.bytes(kindStr); ok {
		*p = d.str(b)
	} else if !d.r.nil() {
		d.extra(name)
	}
}

// number reads an integer up to limit.
func (d *Decoder) number(limit uint64, name string) (uint64, bool) {
	begin := d.r.pos
	if v, ok := d.r.uint(); ok && v <= limit {
		return v, true
	}
	d.r.pos = begin
	if !d.r.nil() {
		d.extra(name)
	}
	return 0, false
}

// keep reads any value but nil, raw.
func (d *Decoder) keep(name string) []byte {
	if d.r.nil() {
		return nil
	}
	value, reason := d.r.raw()
	if reason != 0 {
		d.fail(reason, name, "a value that can be kept")
		d.r.skip()
	}
	return value
}

func (d *Decoder) loraID(name string) {
	begin := d.r.pos
	d.ev.LoRAID = Optional[int64]{}
	if v, negative, ok := d.r.int(); ok && (negative || v <= math.MaxInt64) {
		d.ev.LoRAID = Some(int64(v))
		return
	}
	d.r.pos = begin
	if !d.r.nil() {
		d.extra(name)
	}
}

// loraMap reads the map that SGLang 0.5.18 appends to its array, in the place of
// vLLM's name of the LoRA adapter.
func (d *Decoder) loraMap() {
	n, _ := d.r.object()
	for range n {
		name, ok := d.r.bytes(kindStr)
		switch {
		case !ok:
			d.keep("")
			d.extra("")
		case string(name) == "cache_salt":
			d.label(&d.ev.Salt, "cache_salt")
		default:
			d.extra(d.str(name))
		}
	}
}

// group reads the index of the group. In an array its place may be taken by a list
// of an older layout.
func (d *Decoder) group(name string) {
	if name != "" && d.r.kind() == kindArray {
		d.extra(name)
		return
	}
	d.ev.Group = d.optionalUint32("group_idx")
}

// blockHashes reads the identities of blocks. In a map of Mooncake both fields may
// be nil, and block_hashes is a copy unless seq_hashes is empty.
func (d *Decoder) blockHashes(f field, name string) {
	switch begin := d.r.pos; {
	case name == "" && d.r.nil():
		if f == fieldHashes {
			d.seen &^= 1 << fieldHashes
		}
	case f == fieldHashes && d.seen&(1<<fieldSeqHashes) != 0 && len(d.ev.Hashes) > 0:
		d.r.skip()
	case f == fieldSeqHashes:
		if n, ok := d.r.array(); !ok || n > 0 {
			d.r.pos = begin
			d.hashes("seq_hashes")
		}
	default:
		d.hashes("block_hashes")
	}
}
