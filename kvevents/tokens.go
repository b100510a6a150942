package kvevents

import (
	"encoding/binary"
	"math"
	"slices"
)

// tokens reads token ids, or pairs of them.
func (d *Decoder) tokens(name string) {
	e, r := &d.ev, &d.r
	e.Tokens, e.Pairs = e.Tokens[:0], e.Pairs[:0]
	begin := r.pos
	n, ok := r.array()
	switch {
	case !ok && r.nil():
		return
	case !ok:
		d.failSkip(name, "an array of token ids")
		return
	case n > 0 && r.kind() == kindArray:
		ok = d.pairs(n)
	default:
		ok = d.singles(n)
	}
	if !ok {
		d.fail(ReasonRange, name, "token ids from 0 to 2^32-1, or pairs of them")
		e.Tokens, e.Pairs = e.Tokens[:0], e.Pairs[:0]
		r.pos = begin
		r.skip()
	}
}

func (d *Decoder) singles(n int) bool {
	data, pos := d.r.data, d.r.pos
	tokens := slices.Grow(d.ev.Tokens, n)[:n]
	for i := range tokens {
		switch c := data[pos]; {
		case c <= 0x7f:
			tokens[i] = uint32(c)
			pos++
		case c == 0xcd:
			tokens[i] = uint32(binary.BigEndian.Uint16(data[pos+1:]))
			pos += 3
		case c == 0xce:
			tokens[i] = binary.BigEndian.Uint32(data[pos+1:])
			pos += 5
		default:
			d.r.pos = pos
			v, ok := d.r.uint()
			if !ok || v > math.MaxUint32 {
				return false
			}
			tokens[i] = uint32(v)
			pos = d.r.pos
		}
	}
	d.r.pos, d.ev.Tokens = pos, tokens
	return true
}

func (d *Decoder) pairs(n int) bool {
	pairs := slices.Grow(d.ev.Pairs, n)
	for range n {
		if size, ok := d.r.array(); !ok || size != 2 {
			return false
		}
		a, okA := d.r.uint()
		b, okB := d.r.uint()
		if !okA || !okB || a > math.MaxUint32 || b > math.MaxUint32 {
			return false
		}
		pairs = append(pairs, [2]uint32{uint32(a), uint32(b)})
	}
	d.ev.Pairs = pairs
	return true
}
