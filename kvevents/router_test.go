package kvevents

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/codec"
)

// golden is the value of each vector of Dynamo 1.6.1's own serialiser.
var golden = map[string]any{
	"router-events/empty": RouterEvents{},
	"router-events/all": RouterEvents{
		goldenStored(1, 9, 1, "device", "worker"),
		func() Event {
			e := goldenStored(3, 1<<64-1, 1<<64-1, "host_pinned", "worker")
			e.Rank, e.Parent, e.StartPosition, e.Session = Some(uint32(3)), Some(uint64(1<<64-1)), Some(uint32(70000)), "session-1"
			e.Media = [][]MediaObject{{{77, [][2]uint64{{0, 3}, {5, 300}}}}, nil, nil}
			return e
		}(),
		{Kind: Removed, Tag: "removed", Worker: 200, ID: 300, Rank: Some(uint32(1)), Medium: "disk", Domain: "worker",
			Hashes: []uint64{0, 127, 128, 65535, 65536, 4294967295, 4294967296}},
		{Kind: Cleared, Tag: "cleared", Worker: 9, ID: 2, Rank: Some(uint32(0)), Medium: "external", Domain: "cache_owner"},
		{Kind: Cleared, Tag: "cleared", Worker: 9, ID: 2, Rank: Some(uint32(0)), Medium: "device"},
		func() Event {
			e := goldenStored(20, 9, 3, "device", "")
			e.Parent = Some(uint64(5))
			return e
		}(),
	},
	"active-load/decode": &ActiveLoad{Worker: 0x1f4a2b, ActiveDecodeBlocks: Some(uint64(17))},
	"active-load/all": &ActiveLoad{Worker: 1<<64 - 1, Rank: 7, ActiveDecodeBlocks: Some(uint64(0)), ActivePrefillTokens: Some(uint64(70000)),
		KVUsedBlocks: Some(uint64(1<<64 - 1))},
	"active-sequences/batch": ActiveSequences{
		{Kind: SequenceAdded, Tag: "AddRequest", RequestID: "req-1", Worker: 42, Rank: 1, Router: 0x1234567890, Hashes: []uint64{1, 1<<64 - 1},
			TrackPrefillTokens: true, ExpectedOutput: Some(uint32(100)), PrefillTokens: Some(uint64(512)), PrefillDuration: Some(1500 * time.Millisecond)},
		{Kind: SequenceAdded, Tag: "AddRequest", RequestID: "req-1", Worker: 42, Rank: 1, Router: 0x1234567890, LoRAName: "adapter-a"},
		{Kind: SequenceAdded, Tag: "AddRequest", RequestID: "req-1", Worker: 42, Rank: 1, Router: 0x1234567890, Hashes: []uint64{},
			TrackPrefillTokens: true, PrefillTokens: Some(uint64(1))},
		{Kind: SequenceFreed, Tag: "Free", RequestID: "req-1", Worker: 42, Rank: 1, Router: 0x1234567890, TrackPrefillTokens: true},
		{Kind: SequencePrefillCompleted, Tag: "MarkPrefillCompleted", RequestID: "req-1", Worker: 42, Rank: 1, Router: 0x1234567890, TrackPrefillTokens: true},
	},
}

func goldenStored(n, worker, id uint64, tier, domain string) Event {
	e := Event{Kind: Stored, Tag: "stored", Worker: worker, ID: id, Rank: Some(uint32(0)), Medium: tier, Domain: domain}
	for i := range n {
		e.Hashes = append(e.Hashes, 0x9e3779b97f4a7c15*(i+1))
		e.TokensHashes = append(e.TokensHashes, 0xc2b2ae3d27d4eb4f*(i+1))
	}
	return e
}

// Each form encodes, through the codecs, to the bytes and text of Dynamo's own
// serialiser, and decodes to the same value.
func TestGolden(t *testing.T) {
	t.Parallel()
	tested := 0
	for _, kind := range []string{"router-events", "active-load", "active-sequences"} {
		for _, v := range goldens(t, kind) {
			value := golden[v[0]]
			tested++
			for c, want := range map[codec.Codec][]byte{codec.Msgpack: unhex(t, v[1]), codec.JSON: []byte(v[2])} {
				got, err := c.Append(nil, value)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s, %s: error %v, got\n%q, want\n%q", v[0], c.Name(), err, got, want)
				}
				back := reflect.New(reflect.TypeOf(value))
				if back.Elem().Kind() == reflect.Pointer {
					back = reflect.New(back.Elem().Type().Elem())
				}
				if err := c.Unmarshal(want, back.Interface()); err != nil {
					t.Errorf("%s, %s: %v", v[0], c.Name(), err)
				}
				checkGolden(t, v[0]+", "+c.Name(), back.Elem().Interface(), value)
			}
		}
	}
	if tested != len(golden) {
		t.Errorf("%d vectors, want %d", tested, len(golden))
	}
}

func checkGolden(t *testing.T, name string, got, want any) {
	t.Helper()
	switch want := want.(type) {
	case RouterEvents:
		got := got.(RouterEvents)
		if len(got) != len(want) {
			t.Fatalf("%s: %d events, want %d", name, len(got), len(want))
		}
		for i := range got {
			if len(got[i].Raw) == 0 {
				t.Errorf("%s: event %d has no raw form", name, i)
			}
			checkEvent(t, name, &got[i], want[i])
		}
	case ActiveSequences:
		got := got.(ActiveSequences)
		for i := range got {
			if len(got[i].Raw) == 0 {
				t.Errorf("%s: event %d has no raw form", name, i)
			}
			got[i].Raw = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got\n%+v, want\n%+v", name, got, want)
		}
	case *ActiveLoad:
		if !reflect.DeepEqual(got, *want) {
			t.Errorf("%s: got %+v, want %+v", name, got, *want)
		}
	}
}

// The single forms: those of Gen-1, and of active sequences over NATS.
func TestGoldenSingle(t *testing.T) {
	t.Parallel()
	for _, v := range goldens(t, "router-event") {
		for _, payload := range [][]byte{unhex(t, v[1]), []byte(v[2]), []byte(" \n" + v[2] + "\n")} {
			var events RouterEvents
			if err := events.UnmarshalMsgpack(payload); err != nil || len(events) != 1 || events[0].Problem != nil {
				t.Fatalf("%s: %v, %+v", v[0], err, events)
			}
			if got, err := AppendRouterEvent([]byte("x"), &events[0]); err != nil || !bytes.Equal(got[1:], unhex(t, v[1])) {
				t.Errorf("%s: %v, %x", v[0], err, got)
			}
		}
	}
	for _, v := range goldens(t, "active-sequence") {
		for _, payload := range [][]byte{unhex(t, v[1]), []byte(v[2])} {
			var events ActiveSequences
			if err := events.UnmarshalMsgpack(payload); err != nil || len(events) != 1 || events[0].Problem != nil {
				t.Fatalf("%s: %v, %+v", v[0], err, events)
			}
			if got, err := AppendActiveSequence([]byte("x"), &events[0]); err != nil || !bytes.Equal(got[1:], unhex(t, v[1])) {
				t.Errorf("%s: %v, %x", v[0], err, got)
			}
		}
	}
}

// A real worker's TreeDump, as far as it was written down, and vectors B and C of
// docs/protocol.md, which Dynamo up to 1.4 sends without a domain.
func TestProtocolVectors(t *testing.T) {
	t.Parallel()
	var d Decoder
	wire := unhex(t, `91 83 a9 77 6f 72 6b 65 72 5f 69 64 09 ac 73 74 6f 72 61 67 65 5f 74 69 65 72 a6 64 65 76 69 63 65 a5 65 76 65 6e 74
		83 a8 65 76 65 6e 74 5f 69 64 01 a4 64 61 74 61 81 a6 73 74 6f 72 65 64 83 ab 70 61 72 65 6e 74 5f 68 61 73 68 c0 ae
		73 74 61 72 74 5f 70 6f 73 69 74 69 6f 6e c0 a6 62 6c 6f 63 6b 73 91 83 aa 62 6c 6f 63 6b 5f 68 61 73 68 cf 11 22 33
		44 55 66 77 88 ab 74 6f 6b 65 6e 73 5f 68 61 73 68 cc 99 ad 6d 6d 5f 65 78 74 72 61 5f 69 6e 66 6f c0 a7 64 70 5f 72
		61 6e 6b 00`)
	if batch, err := d.Router(wire); err != nil || batch.Len != 1 {
		t.Fatal(batch, err)
	}
	for e := range d.Events() {
		checkEvent(t, "B", e, Event{Kind: Stored, Tag: "stored", Worker: 9, ID: 1, Rank: Some(uint32(0)), Medium: "device",
			Hashes: []uint64{0x1122334455667788}, TokensHashes: []uint64{0x99}})
		again, err := AppendRouterEvents(nil, []Event{*e})
		if err != nil || !bytes.Equal(again, wire) {
			t.Errorf("B: %v, %x", err, again)
		}
	}
}

func routerObject(data any) object {
	return object{"worker_id", 9, "event", object{"event_id", 5, "data", data, "dp_rank", 2}, "storage_tier", "disk"}
}

func TestRouterUnknownAndInvalid(t *testing.T) {
	t.Parallel()
	block := object{"block_hash", 1, "tokens_hash", 2}
	stored := func(members ...any) any { return object{"stored", object(members)} }
	with := func(o object, more ...any) object { return append(slices.Clone(o), more...) }
	for name, c := range map[string]struct {
		event any
		want  Reason
	}{
		"unknown variant":           {routerObject("paused"), 0},
		"unknown map":               {routerObject(object{"moved", object{}}), 0},
		"data of two":               {routerObject(object{"stored", 1, "removed", 2}), ReasonType},
		"data nil":                  {routerObject(nil), ReasonType},
		"no blocks":                 {routerObject(stored("parent_hash", nil)), ReasonMissing},
		"block without tokens":      {routerObject(stored("blocks", list{object{"block_hash", 1}})), ReasonMissing},
		"block nil":                 {routerObject(stored("blocks", list{nil})), ReasonType},
		"hash text in a block":      {routerObject(stored("blocks", list{object{"block_hash", "x", "tokens_hash", 2}})), ReasonType},
		"media without a hash":      {routerObject(stored("blocks", list{with(block, "mm_extra_info", object{"mm_objects", list{object{}}})})), ReasonType},
		"removed without hashes":    {routerObject(object{"removed", object{}}), ReasonMissing},
		"removed is a list":         {routerObject(object{"removed", list{1}}), ReasonType},
		"domain nil":                {with(routerObject("cleared"), "residency_domain", nil), ReasonType},
		"domain integer":            {with(routerObject("cleared"), "residency_domain", 5), ReasonRange},
		"tier nil":                  {with(routerObject("cleared"), "storage_tier", nil), ReasonType},
		"rank above 2^32":           {object{"worker_id", 9, "event", object{"event_id", 5, "data", "cleared", "dp_rank", 1 << 32}}, ReasonRange},
		"extra field with c1":       {with(routerObject("cleared"), "later", []byte{0xc1}), ReasonSyntax},
		"no worker":                 {object{"event", object{"event_id", 5, "data", "cleared"}}, ReasonMissing},
		"no event":                  {object{"worker_id", 9}, ReasonMissing},
		"event twice":               {with(routerObject("cleared"), "event", object{"event_id", 5, "dp_rank", 2}), ReasonMissing},
		"no id":                     {object{"worker_id", 9, "event", object{"data", "cleared"}}, ReasonMissing},
		"an array":                  {list{9, "device"}, ReasonType},
		"nil":                       {nil, ReasonType},
		"keys that are not strings": {object{5, 5}, ReasonRange},
		"worker negative":           {object{"worker_id", -9, "event", object{"event_id", 5, "data", "cleared"}}, ReasonRange},
	} {
		var d Decoder
		good := routerObject("cleared")
		if _, err := d.Router(pack(list{good, c.event, good})); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []Event
		for e := range d.Events() {
			got = append(got, e.Clone())
		}
		if len(got) != 3 || got[0].Kind != Cleared || got[2].Kind != Cleared || got[2].Rank != Some(uint32(2)) || got[2].Medium != "disk" {
			t.Errorf("%s: got %+v", name, got)
			continue
		}
		bad := got[1]
		if bad.Kind != Unknown || (bad.Problem == nil) != (c.want == 0) || bad.Problem != nil && bad.Problem.Reason != c.want {
			t.Errorf("%s: got %v, problem %v, want %v", name, bad.Kind, bad.Problem, c.want)
		}
		if o, ok := c.event.(object); ok && len(o) >= 6 && (bad.Worker != 9 || bad.ID != 5 || bad.Rank != Some(uint32(2))) {
			t.Errorf("%s: the id of the event is lost: %+v", name, bad)
		}
		if string(bad.Raw) != string(pack(c.event)) {
			t.Errorf("%s: raw %x", name, bad.Raw)
		}
	}
}

// Fields that Dynamo may add are kept; state_source is also sent on.
func TestRouterExtra(t *testing.T) {
	t.Parallel()
	source := object{"pool", 5}
	payload := pack(object{"later", 1.5, "worker_id", 9, "event", object{"event_id", 5, "x", 1, "data", object{"removed", object{"block_hashes", list{-1}, "y", 2}}},
		"state_source", source, "residency_domain", "later", "storage_tier", "later"})
	var events RouterEvents
	if err := codec.Msgpack.Unmarshal(payload, &events); err != nil {
		t.Fatal(err)
	}
	e := events[0]
	if e.Kind != Removed || e.Hashes[0] != 1<<64-1 || len(e.Extra) != 4 || e.Domain != "later" || e.Tier() != TierUnknown || e.Rank != Some(uint32(0)) {
		t.Errorf("got %+v", e)
	}
	if _, err := AppendRouterEvent(nil, &e); err == nil || !strings.Contains(err.Error(), "tier") {
		t.Errorf("an unknown tier: got %v", err)
	}
	e.Medium = "GPU"
	got, err := AppendRouterEvent(nil, &e)
	if want := pack(object{"state_source", source})[1:]; err != nil || !bytes.HasSuffix(got, want) || got[0] != 0x85 {
		t.Errorf("got %v, %q, want it to end with %q", err, got, want)
	}
}

func TestEncodeErrors(t *testing.T) {
	t.Parallel()
	dst := []byte("x")
	for name, e := range map[string]Event{
		"unknown":          {Tag: "later"},
		"no tokens hashes": {Kind: Stored, Hashes: []uint64{1}, Tokens: []uint32{1}},
		"media":            {Kind: Stored, Hashes: []uint64{1}, TokensHashes: []uint64{1}, Media: [][]MediaObject{nil, nil}},
	} {
		if got, err := AppendRouterEvent(dst, &e); err == nil || string(got) != "x" {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		if _, err := json.Marshal(RouterEvents{e}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got, err := AppendActiveSequence(dst, &ActiveSequence{Tag: "Later"}); err == nil || string(got) != "x" {
		t.Errorf("sequence: got %q, %v", got, err)
	}
}

func TestMaxBytes(t *testing.T) {
	t.Parallel()
	payload := append([]byte(`[]`), bytes.Repeat([]byte(" "), DefaultMaxBytes)...)
	var d Decoder
	if _, err := d.Router(payload); reasonOf(err) != ReasonTooLarge {
		t.Errorf("got %v", err)
	}
	d.MaxBytes = 2 * DefaultMaxBytes
	if _, err := d.Router(payload); err != nil {
		t.Error(err)
	}
}

// A clone shares no memory with the decoder or the payload.
func TestClone(t *testing.T) {
	t.Parallel()
	payload := pack(list{1.5, list{append(storedMap("text"), "later", "x", "extra_keys", list{"y"}, "parent_block_hash", "p", "lookahead_token_ids", list{1},
		"block_mm_infos", list{object{"mm_objects", list{object{"mm_hash", 1, "offsets", list{list{0, 1}}}}}}), list{"BlockRemoved", 5}}})
	var d Decoder
	if _, err := d.Engine(payload); err != nil {
		t.Fatal(err)
	}
	var clones []Event
	for e := range d.Events() {
		clones = append(clones, e.Clone())
	}
	_, want := decodeAll(t, slices.Clone(payload))
	clear(payload)
	if _, err := d.Engine(pack(list{1.5, list{append(storedMap(9), "token_ids", list{8, 8, 8})}})); err != nil {
		t.Fatal(err)
	}
	for range d.Events() {
		break
	}
	if !reflect.DeepEqual(clones, want) || clones[1].Problem == nil {
		t.Errorf("got\n%+v, want\n%+v", clones, want)
	}
	again := clones[0].Clone()
	clones[0].Media[0][0].Offsets[0][0], clones[0].Media[0][0].Hash, clones[0].Extra[0].Value[0] = 9, 9, 9
	if !reflect.DeepEqual(again, want[0]) {
		t.Errorf("a clone of a clone: got\n%+v, want\n%+v", again, want[0])
	}
}
