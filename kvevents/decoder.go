package kvevents

import (
	"bytes"
	"iter"
	"math"
	"slices"
)

// DefaultMaxBytes is the largest payload that a [Decoder] accepts unless MaxBytes
// is set. It fits a batch of about 2,500,000 token ids.
const DefaultMaxBytes = 16 << 20

// Decoder decodes payloads of many events, one event at a time, and reuses its
// memory for each. A payload is checked as a whole before the first event is
// returned; an invalid event does not affect the events around it.
//
// The zero value is ready for use. A Decoder must not be used by several goroutines
// at once.
type Decoder struct {
	MaxBytes int // largest payload, or 0 for DefaultMaxBytes

	r       reader
	batch   Batch
	left    int               // events that have not begun
	decode  func(*Decoder)    // decodes the event at r.pos
	ev      Event             // the event that Events returns
	problem DecodeError       // of ev; Reason is 0 if there is none
	seen    uint32            // bits of the fields that ev has had
	names   map[string]string // strings that were received before
	text    []byte            // msgpack form of a payload in JSON
}

// Batch is what a payload contains beside its events. Extra is valid until the next
// payload.
type Batch struct {
	Len   int              // number of events
	Time  float64          // when an engine made the batch, in Unix seconds
	Rank  Optional[uint32] // data-parallel rank of an engine's events
	Extra []Field          // fields that this package does not define
}

// Events returns an iterator over the events of the payload that the last call of
// Engine or Router accepted, each once. Every element of the payload is one Event;
// those that are invalid or of an unknown kind are [Unknown].
//
// The Event and its slices are valid until the next iteration, and the payload must
// not be changed meanwhile. Use [Event.Clone] to keep one.
func (d *Decoder) Events() iter.Seq[*Event] {
	return func(yield func(*Event) bool) {
		for d.left > 0 {
			d.left--
			d.next()
			if !yield(&d.ev) {
				return
			}
		}
	}
}

// maxKept is the number of elements up to which slices are kept for reuse. A
// larger event is rare, and an adversary must not make it last.
const maxKept = 1 << 17

func kept[T any](s []T) []T {
	if cap(s) > maxKept {
		return nil
	}
	return s[:0]
}

// next decodes the event at r.pos into ev.
func (d *Decoder) next() {
	e := &d.ev
	*e = Event{
		Rank:   d.batch.Rank,
		Hashes: kept(e.Hashes), TokensHashes: kept(e.TokensHashes), Media: e.Media[:0],
		Tokens: kept(e.Tokens), Pairs: kept(e.Pairs), Extra: e.Extra[:0],
	}
	d.problem, d.seen = DecodeError{}, 0
	begin := d.r.pos
	d.decode(d)
	e.Raw = d.r.data[begin:d.r.pos:d.r.pos]
	if d.problem.Reason == 0 && e.Kind == Unknown {
		(&reader{data: d.r.data, pos: begin}).verify(d)
	}
	if d.problem.Reason != 0 {
		d.problem.Offset = max(d.problem.Offset, begin)
		e.Problem = &d.problem
		e.Kind = Unknown
	}
	if e.Kind == Unknown {
		*e = Event{
			Tag: e.Tag, Worker: e.Worker, Rank: e.Rank, ID: e.ID, Raw: e.Raw, Problem: e.Problem,
			Hashes: e.Hashes[:0], TokensHashes: e.TokensHashes[:0], Media: e.Media[:0],
			Tokens: e.Tokens[:0], Pairs: e.Pairs[:0], Extra: e.Extra[:0],
		}
	}
}

// verify fails the event of d unless the value at r.pos can be kept raw.
func (r *reader) verify(d *Decoder) {
	if _, reason := r.raw(); reason != 0 {
		d.failAt(r.pos, reason, "", "a value that can be kept")
	}
}

// start begins with a payload. data is the payload, in msgpack.
func (d *Decoder) start(data []byte, decode func(*Decoder)) {
	d.r = reader{data: data}
	d.batch = Batch{Extra: d.batch.Extra[:0]}
	d.left, d.decode = 0, decode
}

// checkSize returns an error for a payload that is too large.
func (d *Decoder) checkSize(payload []byte) error {
	limit := d.MaxBytes
	if limit == 0 {
		limit = DefaultMaxBytes
	}
	if len(payload) > limit {
		d.left = 0
		return &DecodeError{Reason: ReasonTooLarge, Offset: limit, Want: "a payload that is not larger than MaxBytes"}
	}
	return nil
}

// msgpack returns the payload in msgpack, checked to be one value. Dynamo's forms
// are objects and arrays, whose first byte in JSON is an integer in msgpack.
func (d *Decoder) msgpack(payload []byte) ([]byte, error) {
	if err := d.checkSize(payload); err != nil {
		return nil, err
	}
	if isJSON(payload) {
		var err error
		d.text, err = appendMsgpack(kept(d.text), payload)
		return d.text, err
	}
	return payload, scanAll(payload)
}

func isJSON(payload []byte) bool {
	text := bytes.TrimLeft(payload, " \t\r\n")
	return len(text) > 0 && (text[0] == '{' || text[0] == '[')
}

// fail records the first problem of the event, at the present position.
func (d *Decoder) fail(reason Reason, field, want string) {
	d.failAt(d.r.pos, reason, field, want)
}

func (d *Decoder) failAt(pos int, reason Reason, field, want string) {
	if d.problem.Reason == 0 {
		d.problem = DecodeError{Reason: reason, Field: field, Offset: pos, Want: want}
	}
}

// failSkip records a problem with the value at the present position, and skips it.
func (d *Decoder) failSkip(field, want string) {
	reason := ReasonType
	switch d.r.kind() {
	case kindInvalid:
		reason = ReasonSyntax
	case kindInt, kindUint:
		reason = ReasonRange
	}
	d.fail(reason, field, want)
	d.r.skip()
}

// str returns b as a string, without a new one if b was received before.
func (d *Decoder) str(b []byte) string {
	if s, ok := d.names[string(b)]; ok {
		return s
	}
	if len(b) > 64 {
		return string(b)
	}
	if d.names == nil {
		d.names = map[string]string{}
	} else if len(d.names) >= 512 {
		clear(d.names)
	}
	s := string(b)
	d.names[s] = s
	return s
}

// The methods below read one field. If its value has another type, they record a
// problem and skip it.

func (d *Decoder) uint(field string, limit uint64) (v uint64, ok bool) {
	begin := d.r.pos
	if v, ok = d.r.uint(); ok && v <= limit {
		return v, true
	}
	d.r.pos = begin
	d.failSkip(field, "an integer from 0 to its limit")
	return 0, false
}

// optionalUint32 reads an integer or nil.
func (d *Decoder) optionalUint32(field string) Optional[uint32] {
	if d.r.nil() {
		return Optional[uint32]{}
	}
	v, ok := d.uint(field, math.MaxUint32)
	return Optional[uint32]{uint32(v), ok}
}

// string reads a string or nil.
func (d *Decoder) string(field string) string {
	if d.r.nil() {
		return ""
	}
	b, ok := d.r.bytes(kindStr)
	if !ok {
		d.failSkip(field, "a string")
	}
	return d.str(b)
}

// bool reads a bool.
func (d *Decoder) bool(field string) bool {
	if d.r.kind() != kindBool {
		d.failSkip(field, "a bool")
		return false
	}
	d.r.pos++
	return d.r.data[d.r.pos-1] == 0xc3
}

// extra keeps a field that is not defined.
func (d *Decoder) extra(name string) {
	d.ev.Extra = d.appendField(d.ev.Extra, name)
}

// maxExtra is the number of undefined fields of one event or batch.
const maxExtra = 256

func (d *Decoder) appendField(fields []Field, name string) []Field {
	value, reason := d.r.raw()
	if reason == 0 && len(fields) == maxExtra {
		reason = ReasonTooMany
	}
	if reason != 0 {
		d.fail(reason, name, "a value that can be kept")
		if value == nil {
			d.r.skip()
		}
		return fields
	}
	return append(fields, Field{name, value})
}

// hash reads a hash of any form. integer is false if it was not an integer.
func (r *reader) hash() (v uint64, integer, ok bool) {
	if v, _, ok := r.int(); ok {
		return v, true, true
	}
	if b, ok := r.bytes(kindBin); ok && len(b) > 0 {
		return fold(b), false, true
	}
	if b, ok := r.bytes(kindStr); ok && len(b) > 0 {
		return xxh3(b, 0), false, true
	}
	return 0, false, false
}

// fold returns the last 8 bytes of b as a big-endian integer.
func fold(b []byte) uint64 {
	var v uint64
	for _, c := range b[max(0, len(b)-8):] {
		v = v<<8 | uint64(c)
	}
	return v
}

// hashes reads a list of hashes into ev.Hashes.
func (d *Decoder) hashes(field string) {
	e, r := &d.ev, &d.r
	e.Hashes, e.RawHashes = e.Hashes[:0], nil
	begin := r.pos
	n, ok := r.array()
	if !ok {
		d.failSkip(field, "an array of hashes")
		return
	}
	hashes, integers := slices.Grow(e.Hashes, n), true
	for range n {
		if c := r.data[r.pos]; c == 0xcf || c == 0xd3 { // nearly all
			hashes = append(hashes, bigEndian(r.data[r.pos+1:r.pos+9]))
			r.pos += 9
			continue
		}
		v, integer, ok := r.hash()
		if !ok {
			d.fail(ReasonType, field, "an integer, or bytes or text that are not empty")
			r.pos = begin
			r.skip()
			return
		}
		integers = integers && integer
		hashes = append(hashes, v)
	}
	e.Hashes = hashes
	if !integers {
		e.RawHashes = r.data[begin:r.pos:r.pos]
	}
}

// parent reads a hash or nil into ev.Parent.
func (d *Decoder) parent(field string) {
	e, begin := &d.ev, d.r.pos
	e.Parent, e.RawParent = Optional[uint64]{}, nil
	if d.r.nil() {
		return
	}
	v, integer, ok := d.r.hash()
	if !ok {
		d.failSkip(field, "a hash or nil")
		return
	}
	e.Parent = Some(v)
	if !integer {
		e.RawParent = d.r.data[begin:d.r.pos:d.r.pos]
	}
}
