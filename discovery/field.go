package discovery

import (
	"context"
	"iter"
	"maps"
	"reflect"
)

// WatchField yields a live view of one field of the model cards that match q:
// the whole map from instance id to the field, first when all present cards have
// been read, then whenever it has changed. The caller may keep each map.
//
// If an instance serves a model and adapters of it, the card without a suffix
// counts, else that with the first suffix. A card that cannot be decoded is
// counted in Stats and skipped with a warning. Like Watch, it ends with ctx or
// when the caller leaves the loop, and its last element is the error that ended
// it.
func WatchField[Card, V any](ctx context.Context, c *Client, q Query, field func(Card) V) iter.Seq2[map[uint64]V, error] {
	q.Kind = KindModel
	return func(yield func(map[uint64]V, error) bool) {
		fields, synced := map[ID]V{}, false
		var last map[uint64]V
		for ev, err := range c.Watch(ctx, q) {
			if err != nil {
				yield(nil, err)
				return
			}
			switch ev.Type {
			case Added:
				var card Card
				if err := ev.Instance.DecodeCard(&card); err != nil {
					c.warnBad(ev.Instance.ID().Path(), err)
					continue
				}
				fields[ev.Instance.ID()] = field(card)
			case Removed:
				delete(fields, ev.Instance.ID())
			case Synced:
				synced = true
			}
			if view := collapse(fields); synced && (last == nil || !reflect.DeepEqual(view, last)) {
				last = view
				if !yield(maps.Clone(view), nil) {
					return
				}
			}
		}
	}
}

// collapse picks one field for each instance.
func collapse[V any](fields map[ID]V) map[uint64]V {
	out, from := map[uint64]V{}, map[uint64]ID{}
	for id, v := range fields {
		if best, ok := from[id.Instance]; !ok || id.Suffix < best.Suffix || id.Suffix == best.Suffix && id.Compare(best) < 0 {
			from[id.Instance], out[id.Instance] = id, v
		}
	}
	return out
}
