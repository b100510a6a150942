package kvevents

import (
	"encoding/json"
	"reflect"
	"testing"
)

// addSeeds adds all captured frames, Dynamo's vectors in both codecs, and hostile
// payloads that are short enough to be worth mutating.
func addSeeds(f *testing.F) {
	f.Helper()
	for _, frame := range engineFrames(f) {
		f.Add(frame.payload)
	}
	for _, kind := range []string{"router-event", "router-events", "active-load", "active-sequence", "active-sequences", "state-query", "state-answer"} {
		for _, v := range goldens(f, kind) {
			f.Add(unhex(f, v[1]))
			f.Add([]byte(v[2]))
		}
	}
	for _, b := range hostile() {
		f.Add(b[:min(len(b), 500)])
	}
	f.Add(pack(object{"event_type", "stored", "seq_hashes", list{1}, "block_hashes", list{2}, "dp_rank", 1, "parent_hash", nil}))
	f.Add(pack(list{1.5, list{object{"type", "BlockStored", "block_hashes", list{1}, "token_ids", list{list{1, 2}}, "block_size", 1,
		"block_mm_infos", list{object{"mm_objects", list{object{"mm_hash", 9, "offsets", list{list{0, 1}}}}}}}}}))
}

// An engine's batch has as many events as it claims, each within the payload, and a
// reused decoder returns the same as a new one.
func FuzzEngine(f *testing.F) {
	addSeeds(f)
	var reused Decoder
	f.Fuzz(func(t *testing.T, payload []byte) {
		FormOf(payload)
		var fresh Decoder
		batch, err := fresh.Engine(payload)
		again, err2 := reused.Engine(payload)
		if (err == nil) != (err2 == nil) || batch.Len != again.Len {
			t.Fatalf("%v and %v, %+v and %+v", err, err2, batch, again)
		}
		var events []Event
		for e := range fresh.Events() {
			events = append(events, e.Clone())
		}
		if err != nil && len(events) > 0 || len(events) != batch.Len {
			t.Fatalf("%v, %d events, want %d", err, len(events), batch.Len)
		}
		total, i := 0, 0
		for e := range reused.Events() {
			total += len(e.Raw)
			c := e.Clone()
			checkEvent(t, "reused", &c, withoutEmpty(events[i]))
			if e.Problem != nil && e.Kind != Unknown {
				t.Fatalf("%v with %v", e.Kind, e.Problem)
			}
			i++
		}
		if total > len(payload) {
			t.Fatalf("events of %d bytes in %d", total, len(payload))
		}
	})
}

// withoutEmpty is what checkEvent expects.
func withoutEmpty(e Event) Event {
	e.Raw = nil
	for _, f := range reflect.ValueOf(&e).Elem().Fields() {
		if f.Kind() == reflect.Slice && f.Len() == 0 {
			f.SetZero()
		}
	}
	return e
}

// Each event of an engine can be converted to Dynamo's form, which decodes to it.
func FuzzConvert(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, payload []byte) {
		var d Decoder
		if _, err := d.Engine(payload); err != nil {
			return
		}
		for _, lenient := range []bool{false, true} {
			_, _ = d.Engine(payload)
			c := Converter{Worker: 9, Lenient: lenient}
			for e := range d.Events() {
				out := c.Convert(e)
				if out == nil {
					continue
				}
				wire, err := AppendRouterEvent(nil, out)
				if err != nil {
					t.Fatal(err)
				}
				checkDecodes(t, wire, out)
			}
		}
	})
}

// checkDecodes checks that a single event of Dynamo decodes to e.
func checkDecodes(t *testing.T, wire []byte, e *Event) {
	t.Helper()
	d := Decoder{MaxBytes: 1 << 30}
	if _, err := d.Router(wire); err != nil {
		t.Fatal(err)
	}
	for back := range d.Events() {
		c := back.Clone()
		c.Extra = nil
		want := withoutEmpty(e.Clone())
		want.Extra = nil
		for i := range want.Media {
			for j := range want.Media[i] {
				c.Media[i][j].Offsets = append([][2]uint64{}, c.Media[i][j].Offsets...)
				want.Media[i][j].Offsets = append([][2]uint64{}, want.Media[i][j].Offsets...)
			}
		}
		checkEvent(t, "again", &c, want)
	}
}

// Events of Dynamo that can be decoded can be encoded, and decode to the same.
func FuzzRouter(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, payload []byte) {
		var d Decoder
		batch, err := d.Router(payload)
		n := 0
		for e := range d.Events() {
			n++
			if e.Kind == Unknown || e.Tier() == TierUnknown {
				continue
			}
			wire, err := AppendRouterEvent(nil, e)
			if err != nil {
				t.Fatal(err)
			}
			want := e.Clone()
			want.Medium, want.RawHashes, want.RawParent = e.Tier().String(), nil, nil
			checkDecodes(t, wire, &want)
		}
		if err != nil && n > 0 || n != batch.Len {
			t.Fatalf("%v, %d events, want %d", err, n, batch.Len)
		}
		var events RouterEvents
		if err2 := events.UnmarshalMsgpack(payload); (err == nil) != (err2 == nil) && n <= maxValues {
			t.Fatalf("%v and %v", err, err2)
		}
	})
}

// fuzzValue tests that values that can be decoded can be encoded, and decode to the
// same.
func fuzzValue[T any](f *testing.F, decode func(*T, []byte) error, encode func(T) ([]byte, error), known func(T) T) {
	f.Helper()
	addSeeds(f)
	f.Fuzz(func(t *testing.T, payload []byte) {
		var v, back T
		if decode(&v, payload) != nil {
			return
		}
		v = known(v)
		wire, err := encode(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := decode(&back, wire); err != nil {
			t.Fatal(err)
		}
		if text, text2 := dump(v), dump(known(back)); text != text2 {
			t.Fatalf("got\n%s, want\n%s", text2, text)
		}
	})
}

func FuzzActiveLoad(f *testing.F) {
	fuzzValue(f, (*ActiveLoad).UnmarshalMsgpack, ActiveLoad.MarshalMsgpack, func(v ActiveLoad) ActiveLoad {
		v.Extra = nil
		return v
	})
}

func FuzzForwardPassMetrics(f *testing.F) {
	fuzzValue(f, (*ForwardPassMetrics).UnmarshalMsgpack, ForwardPassMetrics.MarshalMsgpack, func(v ForwardPassMetrics) ForwardPassMetrics {
		v.Extra, v.Queued.PrefillKVTokens = nil, 0
		return v
	})
}

func FuzzActiveSequences(f *testing.F) {
	fuzzValue(f, (*ActiveSequences).UnmarshalMsgpack, ActiveSequences.MarshalMsgpack, func(v ActiveSequences) ActiveSequences {
		var known ActiveSequences
		for _, s := range v {
			if s.Kind != SequenceAdded {
				s.TrackPrefillTokens, s.Hashes = true, nil
			}
			if !s.PrefillTokens.Present {
				s.PrefillDuration.Present, s.PrefillDuration.Value = false, 0
			}
			if s.Extra, s.Raw = nil, nil; s.Kind != SequenceUnknown {
				known = append(known, s)
			}
		}
		return known
	})
}

func FuzzStateQuery(f *testing.F) {
	fuzzValue(f, (*StateQuery).UnmarshalMsgpack, StateQuery.MarshalMsgpack, func(v StateQuery) StateQuery {
		v.Extra, v.Kind = nil, ""
		return v
	})
}

func FuzzStateAnswer(f *testing.F) {
	fuzzValue(f, (*StateAnswer).UnmarshalMsgpack, func(v StateAnswer) ([]byte, error) {
		if v.Kind == AnswerUnknown {
			v.Kind = AnswerError
		}
		return v.MarshalMsgpack()
	}, func(v StateAnswer) StateAnswer {
		switch v.Kind {
		case AnswerUnknown, AnswerError:
			return StateAnswer{Kind: AnswerError, Tag: "Error", Message: v.Message}
		case AnswerEvents:
			return StateAnswer{Kind: v.Kind, Tag: v.Tag, Events: v.Events, LastID: v.LastID}
		case AnswerTreeDump:
			return StateAnswer{Kind: v.Kind, Tag: v.Tag, Events: v.Events, LastID: v.LastID, Domain: v.Domain}
		case AnswerTreeDumpFailed:
			return StateAnswer{Kind: v.Kind, Tag: v.Tag, LastID: v.LastID, Message: v.Message}
		case AnswerTooNew:
			return StateAnswer{Kind: v.Kind, Tag: v.Tag, Start: v.Start, End: v.End, Newest: v.Newest}
		}
		return StateAnswer{Kind: v.Kind, Tag: v.Tag, Start: Some(v.Start.Value), End: Some(v.End.Value)}
	})
}

func FuzzLoadStat(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, payload []byte) {
		var v LoadStat
		err := v.UnmarshalMsgpack(payload)
		if form := FormOf(payload); err == nil && form != FormLoad {
			t.Fatalf("form %v", form)
		}
	})
}

// The msgpack of a JSON text is that of the same value, except for numbers beyond
// 64 bits.
func FuzzJSON(f *testing.F) {
	addSeeds(f)
	for _, text := range []string{`[1,-1,1.5,1e3,18446744073709551615,-9223372036854775808,"\u00e4\"\\",true,false,null,{"a":{}}]`, ` { "a" : [ ] } `} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		wire, err := appendMsgpack(nil, text)
		if err != nil {
			return
		}
		if err := scanAll(wire); err != nil {
			t.Fatalf("%q gives %x: %v", text, wire, err)
		}
		var want any
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		got, err := marshalJSON(wire, nil)
		if err != nil {
			t.Fatal(err)
		}
		var back any
		if err := json.Unmarshal(got, &back); err != nil {
			t.Fatalf("%q gives %q: %v", text, got, err)
		}
		if !reflect.DeepEqual(back, want) {
			t.Fatalf("%q gives %q", text, got)
		}
	})
}
