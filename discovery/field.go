package discovery

import (
	"context"
	"iter"
	"maps"
	"reflect"
	"sync"
)

// WatchField yields a live view of one field of the model cards that match q:
// the whole map from instance id to the field, first when all present cards have
// been read, then whenever it has changed. The caller may keep each map.
//
// Changes that arrive while the caller handles a map, or while the next one is
// made, are combined in the next one. A map of n instances therefore costs the
// time of n once for many changes, and a slow caller misses states in between,
// never the latest.
//
// If an instance serves a model and adapters of it, the card without a suffix
// counts, else that with the first suffix. A card that cannot be decoded is
// counted in Stats and skipped with a warning. Like Watch, it ends with ctx or
// when the caller leaves the loop, and its last element is the error that ended
// it.
func WatchField[Card, V any](ctx context.Context, c *Client, q Query, field func(Card) V) iter.Seq2[map[uint64]V, error] {
	q.Kind = KindModel
	return func(yield func(map[uint64]V, error) bool) {
		pending, stop := c.collect(ctx, q)
		defer stop()
		view, first := newFieldView[V](), true
		for {
			events, synced, err := pending.wait()
			if ctx.Err() != nil {
				yield(nil, ctx.Err())
				return
			}
			for id, ev := range events {
				if ev.Type == Removed {
					view.remove(id)
					continue
				}
				var card Card
				if err := ev.Instance.DecodeCard(&card); err != nil {
					c.warnBad(id.Path(), err)
					continue
				}
				view.put(id, field(card))
			}
			if synced && (view.refresh() || first) {
				first = false
				if !yield(maps.Clone(view.fields), nil) {
					return
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// fieldView is the map that WatchField yields, and the cards that it is made of.
type fieldView[V any] struct {
	cards  map[uint64]map[ID]V
	fields map[uint64]V
	dirty  map[uint64]struct{} // instances whose field may have changed
}

func newFieldView[V any]() *fieldView[V] {
	return &fieldView[V]{map[uint64]map[ID]V{}, map[uint64]V{}, map[uint64]struct{}{}}
}

func (f *fieldView[V]) put(id ID, v V) {
	cards := f.cards[id.Instance]
	if cards == nil {
		cards = map[ID]V{}
		f.cards[id.Instance] = cards
	}
	cards[id] = v
	f.dirty[id.Instance] = struct{}{}
}

func (f *fieldView[V]) remove(id ID) {
	delete(f.cards[id.Instance], id)
	f.dirty[id.Instance] = struct{}{}
}

// refresh picks the fields of the dirty instances, and reports whether one has
// changed.
func (f *fieldView[V]) refresh() (changed bool) {
	for instance := range f.dirty {
		cards := f.cards[instance]
		former, had := f.fields[instance]
		if len(cards) == 0 {
			delete(f.cards, instance)
			delete(f.fields, instance)
			changed = changed || had
			continue
		}
		v := firstCard(cards)
		if !had || !reflect.DeepEqual(v, former) {
			f.fields[instance] = v
			changed = true
		}
	}
	clear(f.dirty)
	return changed
}

// firstCard returns the field of the card with the least suffix.
func firstCard[V any](cards map[ID]V) V {
	var best ID
	for id := range cards {
		if best.Kind == 0 || id.Suffix < best.Suffix || id.Suffix == best.Suffix && id.Compare(best) < 0 {
			best = id
		}
	}
	return cards[best]
}

// pendingEvents are the events of a watch that have not been handled: the last
// one of each registration.
type pendingEvents struct {
	mu     sync.Mutex
	events map[ID]Event
	synced bool
	err    error
	wake   chan struct{} // of capacity one
}

// collect runs a watch whose events wait in the pendingEvents, until stop is
// called.
func (c *Client) collect(ctx context.Context, q Query) (p *pendingEvents, stop func()) {
	p = &pendingEvents{events: map[ID]Event{}, wake: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ev, err := range c.Watch(ctx, q) {
			p.add(ev, err)
		}
	}()
	return p, func() {
		cancel()
		<-done
	}
}

func (p *pendingEvents) add(ev Event, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
		p.err = err
	case ev.Type == Synced:
		p.synced = true
	default:
		p.events[ev.Instance.ID()] = ev
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// wait blocks until there are events, and takes them. synced stays set, and the
// error is the one that ended the watch.
func (p *pendingEvents) wait() (events map[ID]Event, synced bool, err error) {
	<-p.wake
	p.mu.Lock()
	defer p.mu.Unlock()
	events, p.events = p.events, map[ID]Event{}
	return events, p.synced, p.err
}
