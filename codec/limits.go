package codec

import (
	"reflect"
	"sync"
)

// maxMemory is what one message may take as a Go value, in bytes. It is
// estimated before decoding, rather too high than too low; the libraries take
// up to twice as much for a moment while slices grow.
const maxMemory = 64 << 20

// A weight is what decoding into a type can cost, in bytes of memory.
type weight struct {
	value int  // for each value of the message
	maps  int  // for each map of the message, besides
	any   bool // the type has interfaces in it
}

// What a value costs in an interface: a slot in a slice or map and a boxed
// word; and what a map costs that holds but one pair.
const (
	anyValue = 40
	anyMap   = 320
)

// of is in 64 bits, since a sender chooses the factors.
func (w weight) of(c census) int64 {
	return int64(c.values)*int64(w.value) + int64(c.maps)*int64(w.maps)
}

func (w weight) max(o weight) weight {
	return weight{max(w.value, o.value), max(w.maps, o.maps), w.any || o.any}
}

// weights remembers the weight of each type that was decoded into.
type weights struct{ byType sync.Map }

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

// weigh finds the heaviest thing within t that a sender can have many of.
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
		w.value, w.maps = 2*pair, 8*pair+64 // a map of one pair has room for eight
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
