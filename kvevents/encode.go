package kvevents

import (
	"fmt"
	"slices"

	"github.com/dynplane/dynplane/codec"
)

// AppendRouterEvent appends one event in the form of Dynamo's RouterEvent, in
// msgpack, and returns the extended buffer. Dynamo up to 1.3 publishes single
// events.
//
// The medium must have a [Tier], and a stored event needs TokensHashes: see
// [Converter] for the events of engines. The fields that this form does not have
// are left out, and so is the domain if it is empty. With an error, dst is returned
// unchanged.
func AppendRouterEvent(dst []byte, e *Event) ([]byte, error) {
	w := writer{dst}
	if err := w.routerEvent(e); err != nil {
		return dst, fmt.Errorf("kvevents: encode event %d: %w", e.ID, err)
	}
	return w.b, nil
}

// AppendRouterEvents is AppendRouterEvent for the array that Dynamo 1.4 and later
// publish. A real worker puts at most 128 events and 8,192 blocks into one.
func AppendRouterEvents(dst []byte, events []Event) ([]byte, error) {
	w := writer{dst}
	w.array(len(events))
	for i := range events {
		if err := w.routerEvent(&events[i]); err != nil {
			return dst, fmt.Errorf("kvevents: encode event %d: %w", events[i].ID, err)
		}
	}
	return w.b, nil
}

func (w *writer) routerEvent(e *Event) error {
	tier := e.Tier()
	switch {
	case tier == TierUnknown:
		return fmt.Errorf("medium %.64q: want one that has a tier", e.Medium)
	case e.Kind == Unknown:
		return fmt.Errorf("unknown kind %.64q: want stored, removed or cleared", e.Tag)
	case e.Kind == Stored && len(e.TokensHashes) != len(e.Hashes):
		return fmt.Errorf("%d tokens hashes: want one for each of %d blocks", len(e.TokensHashes), len(e.Hashes))
	case len(e.Media) != 0 && len(e.Media) != len(e.Hashes):
		return fmt.Errorf("media of %d blocks: want none, or those of %d blocks", len(e.Media), len(e.Hashes))
	}
	source := slices.IndexFunc(e.Extra, func(f Field) bool { return f.Name == "state_source" })
	members := 3
	for _, present := range []bool{e.Domain != "", source >= 0, e.Session != ""} {
		if present {
			members++
		}
	}
	w.object(members)
	w.key("worker_id").uint(e.Worker)
	w.key("storage_tier").string(tier.String())
	if e.Domain != "" {
		w.key("residency_domain").string(e.Domain)
	}
	w.key("event").object(3)
	w.key("event_id").uint(e.ID)
	w.key("data")
	w.routerData(e)
	w.key("dp_rank").uint(uint64(e.Rank.Value))
	if source >= 0 {
		w.key("state_source").raw(e.Extra[source].Value)
	}
	if e.Session != "" {
		w.key("session_id").string(e.Session)
	}
	return nil
}

func (w *writer) routerData(e *Event) {
	switch e.Kind {
	case Stored:
		w.object(1)
		w.key("stored").object(3)
		w.key("parent_hash")
		optional(w, e.Parent)
		w.key("start_position")
		optional(w, e.StartPosition)
		w.key("blocks").array(len(e.Hashes))
		for i, hash := range e.Hashes {
			w.object(3)
			w.key("block_hash").uint(hash)
			w.key("tokens_hash").uint(e.TokensHashes[i])
			w.key("mm_extra_info")
			w.media(e, i)
		}
	case Removed:
		w.object(1)
		w.key("removed").object(1)
		w.key("block_hashes").hashes(e.Hashes)
	default:
		w.string("cleared")
	}
}

// media appends the multimodal objects of a block.
func (w *writer) media(e *Event, block int) {
	if len(e.Media) == 0 || e.Media[block] == nil {
		w.nil()
		return
	}
	w.object(1)
	w.key("mm_objects").array(len(e.Media[block]))
	for _, o := range e.Media[block] {
		w.object(2)
		w.key("mm_hash").uint(o.Hash)
		w.key("offsets").array(len(o.Offsets))
		for _, r := range o.Offsets {
			w.array(2)
			w.uint(r[0])
			w.uint(r[1])
		}
	}
}

// RouterEvents is the payload of Dynamo's topic kv-events as a Go value, for codecs
// and for eventplane.Events. It encodes as an array, and also decodes the single
// event that Dynamo up to 1.3 publishes.
//
// Each event has memory of its own. A [Decoder] is faster, and takes larger payloads:
// the codecs refuse one of more than about 18,000 blocks. Those of Dynamo 1.4 and
// later have 8,192 at most.
type RouterEvents []Event

// MarshalMsgpack encodes the events.
func (v RouterEvents) MarshalMsgpack() ([]byte, error) { return AppendRouterEvents(nil, v) }

// UnmarshalMsgpack decodes events, in msgpack or JSON.
func (v *RouterEvents) UnmarshalMsgpack(data []byte) error {
	var d Decoder
	b, err := d.Router(slices.Clone(data))
	if err != nil {
		return err
	}
	if b.Len > maxValues {
		return tooMany(maxValues)
	}
	*v = make(RouterEvents, 0, min(b.Len, 256))
	for e := range d.Events() {
		if e.Problem != nil {
			e.Problem = new(*e.Problem)
		}
		*v = append(*v, *e)
		*e = Event{} // its slices belong to v
	}
	return nil
}

// maxValues is the number of events that one payload may contain if they are decoded
// into a slice: an invalid one takes a single byte of input.
const maxValues = 1 << 16

func tooMany(limit int) error {
	return &DecodeError{Reason: ReasonTooMany, Want: fmt.Sprintf("at most %d events", limit)}
}

// MarshalJSON encodes the events.
func (v RouterEvents) MarshalJSON() ([]byte, error) { return marshalJSON(AppendRouterEvents(nil, v)) }

// UnmarshalJSON decodes events.
func (v *RouterEvents) UnmarshalJSON(data []byte) error { return v.UnmarshalMsgpack(data) }

// marshalJSON converts a value in msgpack to JSON.
func marshalJSON(value []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return codec.AppendJSON(nil, value)
}
