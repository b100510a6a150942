package kvevents

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"github.com/dynplane/dynplane/codec"
)

// goldenQueries are the values of the vectors of Dynamo 1.6.1's own serialiser.
var goldenQueries = map[string]any{
	"state-query/start":    StateQuery{Worker: 0x3a37060081ce753f, Start: Some(uint64(51)), DumpFailed: true, Kind: "recovery"},
	"state-query/all":      StateQuery{Worker: 9, Rank: 3, End: Some(uint64(70000)), Kind: "recovery"},
	"state-answer/events":  StateAnswer{Kind: AnswerEvents, Tag: "Events", LastID: 300, Events: goldenAnswerEvents()},
	"state-answer/dump":    StateAnswer{Kind: AnswerTreeDump, Tag: "TreeDump", LastID: 1<<64 - 1, Events: goldenAnswerEvents()},
	"state-answer/domain":  StateAnswer{Kind: AnswerTreeDump, Tag: "TreeDump", Domain: "worker", Events: pack(list{})},
	"state-answer/failed":  StateAnswer{Kind: AnswerTreeDumpFailed, Tag: "TreeDumpFailed", LastID: 5, Message: "no"},
	"state-answer/too-new": StateAnswer{Kind: AnswerTooNew, Tag: "TooNew", Start: Some(uint64(51)), Newest: 50},
	"state-answer/range":   StateAnswer{Kind: AnswerInvalidRange, Tag: "InvalidRange", Start: Some(uint64(5)), End: Some(uint64(4))},
	"state-answer/error":   StateAnswer{Kind: AnswerError, Tag: "Error", Message: "wrong worker"},
}

func goldenAnswerEvents() []byte {
	b, err := AppendRouterEvents(nil, []Event{goldenStored(1, 9, 1, "device", "worker"), {Kind: Cleared, Worker: 9, ID: 2}})
	if err != nil {
		return nil
	}
	return b
}

func TestGoldenQueries(t *testing.T) {
	t.Parallel()
	vectors := slices.Concat(goldens(t, "state-query"), goldens(t, "state-answer"))
	if len(vectors) != len(goldenQueries) {
		t.Errorf("%d vectors, want %d", len(vectors), len(goldenQueries))
	}
	for _, v := range vectors {
		value := goldenQueries[v[0]]
		for c, want := range map[codec.Codec][]byte{codec.Msgpack: unhex(t, v[1]), codec.JSON: []byte(v[2])} {
			got, err := c.Append(nil, value)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %s: error %v, got\n%q, want\n%q", v[0], c.Name(), err, got, want)
			}
			back := reflect.New(reflect.TypeOf(value))
			if err := c.Unmarshal(want, back.Interface()); err != nil {
				t.Errorf("%s, %s: %v", v[0], c.Name(), err)
			}
			if a, ok := reflect.TypeAssert[*StateAnswer](back); ok {
				if a.Kind == AnswerEvents || a.Kind == AnswerTreeDump {
					a.Events = checkAnswerEvents(t, a.Events)
				}
			}
			if !reflect.DeepEqual(back.Elem().Interface(), value) {
				t.Errorf("%s, %s: got %+v, want %+v", v[0], c.Name(), back.Elem(), value)
			}
		}
	}
}

// checkAnswerEvents decodes the events of an answer and returns them encoded.
func checkAnswerEvents(t *testing.T, raw []byte) []byte {
	t.Helper()
	var d Decoder
	if _, err := d.Router(raw); err != nil {
		t.Fatal(err)
	}
	var events []Event
	for e := range d.Events() {
		events = append(events, e.Clone())
	}
	out, err := AppendRouterEvents(nil, events)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// An answer of Dynamo 1.3 has no scope, and a request of it only four fields.
func TestQueriesOfGen1(t *testing.T) {
	t.Parallel()
	var q StateQuery
	if err := q.UnmarshalMsgpack(pack(object{"worker_id", 9, "dp_rank", 1, "start_event_id", 5, "end_event_id", nil})); err != nil ||
		q.Start != Some(uint64(5)) || q.DumpFailed || q.Kind != "recovery" {
		t.Errorf("%v, %+v", err, q)
	}
	var a StateAnswer
	if err := a.UnmarshalMsgpack(pack(object{"TreeDump", object{"events", list{}, "last_event_id", 7}})); err != nil || a.LastID != 7 || a.Domain != "" {
		t.Errorf("%v, %+v", err, a)
	}
}

func TestQueryKinds(t *testing.T) {
	t.Parallel()
	var q StateQuery
	status := object{"expected", object{"x", 1}}
	if err := q.UnmarshalMsgpack(pack(object{"worker_id", 9, "dp_rank", 1, "kind", object{"status", status}})); err != nil ||
		q.Kind != "status" || string(q.Extra[0].Value) != string(pack(status)) {
		t.Errorf("%v, %+v", err, q)
	}
	if _, err := q.MarshalMsgpack(); err == nil {
		t.Error("a query of another kind is encoded")
	}
	var a StateAnswer
	if err := a.UnmarshalMsgpack(pack(object{"Status", object{}})); err != nil || a.Kind != AnswerUnknown || a.Tag != "Status" {
		t.Errorf("%v, %+v", err, a)
	}
	if _, err := a.MarshalMsgpack(); err == nil {
		t.Error("an answer of an unknown kind is encoded")
	}
}

func TestQueryErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		into    interface{ UnmarshalMsgpack([]byte) error }
		payload any
		want    Reason
	}{
		"query without a rank":    {&StateQuery{}, object{"worker_id", 1}, ReasonMissing},
		"query without a worker":  {&StateQuery{}, object{"dp_rank", 1}, ReasonMissing},
		"start negative":          {&StateQuery{}, object{"worker_id", 1, "dp_rank", 1, "start_event_id", -1}, ReasonRange},
		"kind of two":             {&StateQuery{}, object{"worker_id", 1, "dp_rank", 1, "kind", object{"a", 1, "b", 2}}, ReasonType},
		"kind nil":                {&StateQuery{}, object{"worker_id", 1, "dp_rank", 1, "kind", nil}, ReasonType},
		"answer of two":           {&StateAnswer{}, object{"Error", "a", "Events", "b"}, ReasonShape},
		"answer is text":          {&StateAnswer{}, "Events", ReasonShape},
		"events without a list":   {&StateAnswer{}, object{"Events", object{"last_event_id", 1}}, ReasonMissing},
		"events are a map":        {&StateAnswer{}, object{"Events", object{"last_event_id", 1, "events", object{}}}, ReasonType},
		"events without an id":    {&StateAnswer{}, object{"Events", object{"events", list{}}}, ReasonMissing},
		"error is a map":          {&StateAnswer{}, object{"Error", object{}}, ReasonType},
		"scope of another name":   {&StateAnswer{}, object{"TreeDump", object{"events", list{}, "last_event_id", 1, "reset_scope", "some"}}, ReasonRange},
		"scope without a domain":  {&StateAnswer{}, object{"TreeDump", object{"events", list{}, "last_event_id", 1, "reset_scope", object{}}}, ReasonMissing},
		"scope nil":               {&StateAnswer{}, object{"TreeDump", object{"events", list{}, "last_event_id", 1, "reset_scope", nil}}, ReasonType},
		"scope of another member": {&StateAnswer{}, object{"TreeDump", object{"events", list{}, "last_event_id", 1, "reset_scope", object{"x", "y"}}}, ReasonRange},
	} {
		if err := c.into.UnmarshalMsgpack(pack(c.payload)); reasonOf(err) != c.want {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}
