package codec

import (
	"reflect"
	"sync"
)

// maxMemory is the memory in bytes that one message may take as a Go value. The
// need is estimated before decoding, never too low. The libraries briefly take up
// to twice as much while slices grow.
const maxMemory = 64 << 20

// weight is the largest cost of decoding into a type, in bytes of memory.
type weight struct {
	value int  // for each value of the message
	maps  int  // for each map of the message, in addition
	any   bool // the type contains interfaces
}

// The cost of a value in an interface is a slot in a slice or map and a boxed
// word. The cost of a map is that of one with a single pair, which is the worst
// ratio to its encoded size.
const (
	anyValue = 40
	anyMap   = 320
)

// of returns the cost of a message. It is 64 bits wide because the counts are
// untrusted input.
func (w weight) of(c census) int64 {
	return int64(c.values)*int64(w.value) + int64(c.maps)*int64(w.maps)
}

// max returns the larger of each cost.
func (w weight) max(o weight) weight {
	return weight{max(w.value, o.value), max(w.maps, o.maps), w.any || o.any}
}

// weights caches the weights of types.
type weights struct{ byType sync.Map }

// of returns the weight of the type of v. It is 0 for nil, which the libraries
// refuse to decode into.
func (ws *weights) of(v any) weight {
	t := reflect.TypeOf(v)
	if t == nil {
		return weight{}
	}
	if w, ok := ws.byType.Load(t); ok {
		return w.(weight)
	}
	w := weigh(t, map[reflect.Type]bool{})
	ws.byType.Store(t, w)
	return w
}

// weigh returns the largest weight among the parts of t that a message can have
// many of.
func weigh(t reflect.Type, seen map[reflect.Type]bool) weight {
	if seen[t] {
		return weight{}
	}
	seen[t] = true
	var w weight
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		w.value = int(t.Elem().Size())
		return w.max(weigh(t.Elem(), seen))
	case reflect.Array:
		return weigh(t.Elem(), seen)
	case reflect.Map:
		pair := int(t.Key().Size() + t.Elem().Size())
		w.value, w.maps = 2*pair, 8*pair+64 // a map with one pair has room for eight
		return w.max(weigh(t.Key(), seen)).max(weigh(t.Elem(), seen))
	case reflect.Struct:
		for field := range t.Fields() {
			w = w.max(weigh(field.Type, seen))
		}
	case reflect.Interface:
		w = weight{anyValue, anyMap, true}
	}
	return w
}
