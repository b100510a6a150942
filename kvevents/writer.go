package kvevents

import (
	"encoding/binary"
	"math"
)

// writer appends msgpack, in the smallest widths, as rmp_serde does.
type writer struct{ b []byte }

func (w *writer) nil()         { w.b = append(w.b, 0xc0) }
func (w *writer) bool(v bool)  { w.b = append(w.b, 0xc2+b2u(v)) }
func (w *writer) array(n int)  { w.head(n, 0x90, 15, 0xdc) }
func (w *writer) object(n int) { w.head(n, 0x80, 15, 0xde) }
func (w *writer) float(v float64) {
	w.b = binary.BigEndian.AppendUint64(append(w.b, 0xcb), math.Float64bits(v))
}

func b2u(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// head appends the head of a container: fix plus n up to limit, else a code for 16
// bits or the next one for 32.
func (w *writer) head(n int, fix byte, limit int, code byte) {
	switch {
	case n <= limit:
		w.b = append(w.b, fix+byte(n))
	case n <= math.MaxUint16:
		w.b = binary.BigEndian.AppendUint16(append(w.b, code), uint16(n))
	default:
		w.b = binary.BigEndian.AppendUint32(append(w.b, code+1), uint32(n))
	}
}

func (w *writer) string(s string) {
	if n := len(s); n > 31 && n <= math.MaxUint8 {
		w.b = append(w.b, 0xd9, byte(n))
	} else {
		w.head(n, 0xa0, 31, 0xda)
	}
	w.b = append(w.b, s...)
}

func (w *writer) uint(v uint64) {
	switch {
	case v <= 0x7f:
		w.b = append(w.b, byte(v))
	case v <= math.MaxUint8:
		w.b = append(w.b, 0xcc, byte(v))
	case v <= math.MaxUint16:
		w.b = binary.BigEndian.AppendUint16(append(w.b, 0xcd), uint16(v))
	case v <= math.MaxUint32:
		w.b = binary.BigEndian.AppendUint32(append(w.b, 0xce), uint32(v))
	default:
		w.b = binary.BigEndian.AppendUint64(append(w.b, 0xcf), v)
	}
}

func (w *writer) int(v int64) {
	switch {
	case v >= 0:
		w.uint(uint64(v))
	case v >= -32:
		w.b = append(w.b, byte(v))
	case v >= math.MinInt8:
		w.b = append(w.b, 0xd0, byte(v))
	case v >= math.MinInt16:
		w.b = binary.BigEndian.AppendUint16(append(w.b, 0xd1), uint16(v))
	case v >= math.MinInt32:
		w.b = binary.BigEndian.AppendUint32(append(w.b, 0xd2), uint32(v))
	default:
		w.b = binary.BigEndian.AppendUint64(append(w.b, 0xd3), uint64(v))
	}
}

// raw appends a value in msgpack.
func (w *writer) raw(value []byte) { w.b = append(w.b, value...) }

// key appends a key and returns w, for its value.
func (w *writer) key(name string) *writer {
	w.string(name)
	return w
}

// optional appends v, or nil if it is absent.
func optional[T uint32 | uint64](w *writer, v Optional[T]) {
	if v.Present {
		w.uint(uint64(v.Value))
	} else {
		w.nil()
	}
}

// hashes appends an array of unsigned integers.
func (w *writer) hashes(hashes []uint64) {
	w.array(len(hashes))
	for _, h := range hashes {
		w.uint(h)
	}
}
