package kvevents

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// Every frame that a released publisher sent decodes to what msgspec decodes it to.
func TestEngineFrames(t *testing.T) {
	t.Parallel()
	var d Decoder
	batches, events := 0, 0
	for _, f := range engineFrames(t) {
		if FormOf(f.payload) != FormBatch {
			continue
		}
		batch, err := d.Engine(f.payload)
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			continue
		}
		batches++
		var got []map[string]string
		for e := range d.Events() {
			events++
			if e.Problem != nil || e.Kind == Unknown {
				t.Errorf("%s: %v", f.name, e.Problem)
			}
			if e.Rank != batch.Rank {
				t.Errorf("%s: rank %v, want that of the batch, %v", f.name, e.Rank, batch.Rank)
			}
			got = append(got, gotFields(t, e))
		}
		if len(got) != batch.Len || batch.Time != 1700000000.5 || len(batch.Extra) != 0 || f.json == "" && len(got) == 0 {
			t.Errorf("%s: %d events, batch %+v", f.name, len(got), batch)
		}
		if f.json == "" { // of a replay
			continue
		}
		want := fromJSON(t, f.json).([]any)
		if fmt.Sprint(batch.Rank) != fmt.Sprintf("{%v true}", want[2]) {
			t.Errorf("%s: rank %v, want %v", f.name, batch.Rank, want[2])
		}
		for i, event := range want[1].([]any) {
			if w := wantFields(event); i >= len(got) || !maps.Equal(got[i], w) {
				t.Errorf("%s: event %d: got\n%v, want\n%v", f.name, i, got, w)
			}
		}
	}
	if batches < 140 || events < 160 {
		t.Errorf("%d batches of %d events, want all", batches, events)
	}
}

// Forms of versions of which no frame was captured.
func TestEngineForms(t *testing.T) {
	t.Parallel()
	root := func(hash uint64) Event {
		return Event{Kind: Stored, Tag: "BlockStored", Rank: Some(uint32(0)), Hashes: []uint64{hash}, Tokens: []uint32{4, 5, 6, 7}, BlockSize: 4}
	}
	const vllm, sglang = 0xb278992a3967c67f, 0xcabdbdfa02c612a9
	with := func(e Event, change func(*Event)) Event {
		change(&e)
		return e
	}
	for _, c := range []struct {
		name, payload string
		want          Event
	}{
		{"vLLM 0.9.0, batch of 2", `92cb41d954fc402000009196ab426c6f636b53746f72656491cfb278992a3967c67fc0940405060704c0`,
			with(root(vllm), func(e *Event) { e.Rank = Optional[uint32]{} })},
		{"vLLM 0.16.0, array of 8", `93cb41d954fc402000009198ab426c6f636b53746f72656491cfb278992a3967c67fc094040506070407a3475055a9616461707465722d6100`,
			with(root(vllm), func(e *Event) { e.Medium, e.LoRAID, e.LoRAName = "GPU", Some(int64(7)), "adapter-a" })},
		{"vLLM 0.22.1, array of 12", `93cb41d954fc40200000919cab426c6f636b53746f72656491cfb278992a3967c67fc0940405060704c0a3475055c0c002ae736c6964696e675f77696e646f77cd040000`,
			with(root(vllm), func(e *Event) {
				e.Medium, e.Group, e.SpecKind, e.SlidingWindow = "GPU", Some(uint32(2)), "sliding_window", Some(uint32(1024))
			})},
		{"SGLang 0.5.18, array of 8", `93cb41d954fc402000009198ab426c6f636b53746f72656491d3cabdbdfa02c612a9c0940405060704c0a347505581aa63616368655f73616c74a874656e616e742d3100`,
			with(root(sglang), func(e *Event) { e.Medium, e.Salt = "GPU", "tenant-1" })},
		{"TokenSpeed 0.1.1, array of 5", `93cb41d954fc402000009195ab426c6f636b53746f72656491d3cabdbdfa02c612a9c094040506070400`, root(sglang)},
	} {
		var d Decoder
		if _, err := d.Engine(unhex(t, c.payload)); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for e := range d.Events() {
			checkEvent(t, c.name, e, c.want)
		}
	}
}

func TestEngineBatchShapes(t *testing.T) {
	t.Parallel()
	events := list{storedMap(1), list{"BlockRemoved", list{2}}}
	for name, payload := range map[string]any{
		"array of 2":     list{1.5, events},
		"array of 3":     list{1.5, events, 7},
		"rank nil":       list{1.5, events, nil},
		"array of 5":     list{1.5, events, 7, "more", list{nil}},
		"map":            object{"events", events, "data_parallel_rank", 7, "ts", 1.5, "later", "x"},
		"map, SGLang":    object{"ts", 1.5, "attn_dp_rank", 7, "events", events},
		"ts an integer":  list{1, events},
		"map with a tag": object{"type", "later", "ts", 1.5, "events", events},
	} {
		batch, got := decodeAll(t, pack(payload))
		if len(got) != 2 || got[0].Kind != Stored || got[1].Kind != Removed || got[1].Hashes[0] != 2 || batch.Time < 1 {
			t.Errorf("%s: batch %+v, events %+v", name, batch, got)
		}
		if want := strings.Contains(fmt.Sprint(payload), " 7"); batch.Rank.Present != want || want && got[1].Rank != Some(uint32(7)) {
			t.Errorf("%s: rank %v", name, batch.Rank)
		}
		if want := strings.Contains(fmt.Sprint(payload), "more") || strings.Contains(fmt.Sprint(payload), "later"); (len(batch.Extra) != 0) != want {
			t.Errorf("%s: extra %+v", name, batch.Extra)
		}
	}
	for name, payload := range map[string]any{
		"no events": list{1.5}, "empty": list{}, "events are a map": list{1.5, object{}}, "string": "x", "load": list{"LoadStat", 1, 2, 3, 4, 5},
		"map without events": object{"ts", 1.5},
	} {
		var d Decoder
		if _, err := d.Engine(pack(payload)); reasonOf(err) != ReasonShape {
			t.Errorf("%s: got %v, want a shape error", name, err)
		}
		for range d.Events() {
			t.Errorf("%s: an event", name)
		}
	}
}

func reasonOf(err error) Reason {
	if e, ok := errors.AsType[*DecodeError](err); ok {
		return e.Reason
	}
	return 0
}

// Events of all kinds of damage, each between two good ones.
func TestInvalidEventsCostOneEach(t *testing.T) {
	t.Parallel()
	nest := func(n int) []byte { return append(slices.Repeat([]byte{0x91}, n), 0xc0) }
	hash := func(v any) any { return object{"type", "BlockRemoved", "block_hashes", list{v}} }
	tokens := func(v any) any {
		return object{"type", "BlockStored", "block_hashes", list{1}, "block_size", 2, "token_ids", v}
	}
	many := object{"type", "BlockRemoved", "block_hashes", list{}}
	for i := range maxExtra + 1 {
		many = append(many, fmt.Sprint("field", i), nil)
	}
	for name, c := range map[string]struct {
		event any
		want  Reason
	}{
		"nil":                      {nil, ReasonShape},
		"integer":                  {1, ReasonShape},
		"empty array":              {list{}, ReasonShape},
		"tag of another type":      {list{1, list{}}, ReasonRange},
		"map without a type":       {object{"block_hashes", list{1}}, ReasonMissing},
		"stored of 4":              {list{"BlockStored", list{1}, nil, list{}}, ReasonMissing},
		"removed of 1":             {list{"BlockRemoved"}, ReasonMissing},
		"map without hashes":       {object{"type", "BlockRemoved"}, ReasonMissing},
		"map without tokens":       {object{"type", "BlockStored", "block_hashes", list{}, "block_size", 1}, ReasonMissing},
		"map without block size":   {object{"type", "BlockStored", "block_hashes", list{}, "token_ids", list{}}, ReasonMissing},
		"hashes nil":               {object{"type", "BlockRemoved", "block_hashes", nil}, ReasonMissing},
		"hashes nil, an array":     {list{"BlockRemoved", nil}, ReasonType},
		"hashes are a map":         {object{"type", "BlockRemoved", "block_hashes", object{}}, ReasonType},
		"hash nil":                 {hash(nil), ReasonType},
		"hash float":               {hash(1.5), ReasonType},
		"hash of no bytes":         {hash([]byte{0xc4, 0}), ReasonType},
		"hash of no text":          {hash(""), ReasonType},
		"hash ext":                 {hash([]byte{0xd4, 1, 2}), ReasonType},
		"hash c1":                  {hash([]byte{0xc1}), ReasonType},
		"token 2^32":               {tokens(list{1, 1 << 32}), ReasonRange},
		"token negative":           {tokens(list{1, -1}), ReasonRange},
		"token float":              {tokens(list{1.5}), ReasonRange},
		"tokens and pairs":         {tokens(list{list{1, 2}, 3}), ReasonRange},
		"triples":                  {tokens(list{list{1, 2, 3}}), ReasonRange},
		"pair above 2^32":          {tokens(list{list{1, 1 << 32}}), ReasonRange},
		"tokens text":              {tokens("x"), ReasonType},
		"parent list":              {list{"BlockStored", list{1}, list{}, list{}, 2}, ReasonType},
		"block size negative":      {list{"BlockStored", list{1}, nil, list{}, -2}, ReasonRange},
		"group negative":           {append(storedMap(1), "group_idx", -1), ReasonRange},
		"group text":               {append(storedMap(1), "group_idx", "x"), ReasonType},
		"medium integer":           {append(storedMap(1), "medium", 1), ReasonRange},
		"extra field deep":         {append(storedMap(1), "later", nest(200)), ReasonDepth},
		"unknown kind deep":        {list{"Later", nest(200)}, ReasonDepth},
		"extra field with c1":      {append(storedMap(1), "later", list{[]byte{0xc1}}), ReasonSyntax},
		"key c1":                   {append(storedMap(1), []byte{0xc1}, nil), ReasonSyntax},
		"more fields than allowed": {many, ReasonTooMany},
	} {
		good := list{"BlockRemoved", list{77}}
		_, got := decodeAll(t, pack(list{1.5, list{good, c.event, good}, 3}))
		if len(got) != 3 || got[0].Kind != Removed || got[2].Kind != Removed || got[2].Hashes[0] != 77 {
			t.Errorf("%s: got %+v", name, got)
			continue
		}
		bad := got[1]
		if bad.Kind != Unknown || bad.Problem == nil || bad.Problem.Reason != c.want || string(bad.Raw) != string(pack(c.event)) {
			t.Errorf("%s: got %v, %v, raw %x, want %v", name, bad.Kind, bad.Problem, bad.Raw, c.want)
		}
		if bad.Rank != Some(uint32(3)) || len(bad.Hashes)+len(bad.Tokens)+len(bad.Extra) != 0 {
			t.Errorf("%s: got %+v", name, bad)
		}
	}
}

func TestUnknownIsKept(t *testing.T) {
	t.Parallel()
	transferred := list{"BlockTransferred", list{1}, "x"}
	_, got := decodeAll(t, pack(list{1.5, list{
		transferred,
		object{"type", "Later", "block_hashes", "no list"},
		append(storedMap(1), "token_offset", 12, "lora_id", "x", "session_id", 5, "ownership", list{1}),
		list{"BlockStored", list{1}, nil, list{}, 2, nil, "GPU", nil, nil, list{nil}, nil, nil, nil, nil, nil, nil, "sixteen"},
		list{"BlockRemoved", list{1}, "GPU", 2, "four"},
		list{"AllBlocksCleared", "owner", 5},
	}}))
	for i, want := range []string{"BlockTransferred", "Later"} {
		if got[i].Kind != Unknown || got[i].Tag != want || got[i].Problem != nil {
			t.Errorf("%s: got %+v", want, got[i])
		}
	}
	if string(got[0].Raw) != string(pack(transferred)) {
		t.Errorf("raw %x", got[0].Raw)
	}
	for i, want := range map[int]string{
		2: `[{token_offset 0c} {lora_id a178} {session_id 05} {ownership 9101}]`,
		3: `[{9 91c0} {16 a77369787465656e}]`,
		4: `[{4 a4666f7572}]`,
		5: `[{2 05}]`,
	} {
		var texts []string
		for _, f := range got[i].Extra {
			texts = append(texts, fmt.Sprintf("{%s %x}", f.Name, f.Value))
		}
		if text := fmt.Sprint(texts); got[i].Kind == Unknown || text != want {
			t.Errorf("event %d: extra %s, want %s (%v)", i, text, want, got[i].Problem)
		}
	}
	if got[4].Group != Some(uint32(2)) || got[5].Ownership != "owner" {
		t.Errorf("got %+v", got[4:])
	}
}

func TestFieldTwice(t *testing.T) {
	t.Parallel()
	_, got := decodeAll(t, pack(list{1.5, list{object{
		"type", "BlockRemoved", "block_hashes", list{[]byte{0xc4, 1, 1}, 2}, "token_ids", list{list{1, 2}}, "block_size", 1,
		"medium", "GPU", "parent_block_hash", 0, "group_idx", 1,
		"block_hashes", list{3}, "token_ids", list{4}, "block_size", 2, "medium", nil, "parent_block_hash", nil, "group_idx", nil,
		"type", "BlockStored",
	}}}))
	checkEvent(t, "twice", &got[0], Event{Kind: Stored, Tag: "BlockStored", Hashes: []uint64{3}, Tokens: []uint32{4}, BlockSize: 2})
}

func TestHashForms(t *testing.T) {
	t.Parallel()
	hashes := list{-1, []byte{0xc4, 1, 0xab}, []byte{0xc4, 9, 9, 1, 2, 3, 4, 5, 6, 7, 8}, "text", []byte{0xd0, 5}, []byte{0xd3, 0, 0, 0, 0, 0, 0, 0, 1}}
	_, got := decodeAll(t, pack(list{1.5, list{
		list{"BlockStored", hashes, 0, list{}, 2}, list{"BlockStored", list{1}, "text", list{}, 2}, list{"BlockStored", list{1}, nil, list{}, 2}}}))
	want := []uint64{1<<64 - 1, 0xab, 0x0102030405060708, xxh3([]byte("text"), 0), 5, 1}
	if !slices.Equal(got[0].Hashes, want) || string(got[0].RawHashes) != string(pack(hashes)) {
		t.Errorf("got %x, raw %x", got[0].Hashes, got[0].RawHashes)
	}
	if got[0].Parent != Some(uint64(0)) || got[0].RawParent != nil {
		t.Errorf("parent 0: got %v", got[0].Parent)
	}
	if got[1].Parent != Some(xxh3([]byte("text"), 0)) || string(got[1].RawParent) != "\xa4text" || got[1].RawHashes != nil {
		t.Errorf("parent text: got %v, %q", got[1].Parent, got[1].RawParent)
	}
	if got[2].Parent.Present {
		t.Errorf("no parent: got %v", got[2].Parent)
	}
}

// Integers of token ids in every width, also wider than they need.
func TestTokenWidths(t *testing.T) {
	t.Parallel()
	tokens := list{0, 127, 128, 255, 256, 65535, 65536, 1<<32 - 1, []byte{0xcf, 0, 0, 0, 0, 0, 0, 0, 9}, []byte{0xd0, 9}, []byte{0xd3, 0, 0, 0, 0, 0, 0, 0, 9}}
	_, got := decodeAll(t, pack(list{1.5, list{list{"BlockStored", list{1}, nil, tokens, 2}}}))
	if want := []uint32{0, 127, 128, 255, 256, 65535, 65536, 1<<32 - 1, 9, 9, 9}; !slices.Equal(got[0].Tokens, want) {
		t.Errorf("got %v", got[0].Tokens)
	}
}

func TestMooncake(t *testing.T) {
	t.Parallel()
	stored := object{"event_id", 12, "timestamp", uint64(1700000000500), "event_type", "stored", "model_name", nil, "block_size", nil, "tenant_id", "tenant-a",
		"backend_id", "backend", "medium", "cpu", "object_key", "key", "seq_hashes", list{uint64(1<<64 - 1)}, "block_hashes", list{-1},
		"base_block_idx", nil, "parent_hash", 0, "token_ids", nil, "dp_rank", 5, "additional_salt", "salt", "lora_name", "adapter-a", "group_id", "7"}
	want := Event{Kind: Stored, Tag: "stored", ID: 12, Rank: Some(uint32(5)), Medium: "cpu", Hashes: []uint64{1<<64 - 1}, Parent: Some(uint64(0)),
		Salt: "salt", LoRAName: "adapter-a"}
	for name, payload := range map[string]any{"alone": stored, "in a batch": list{1.5, list{stored}, 4}} {
		batch, got := decodeAll(t, pack(payload))
		if batch.Len != 1 || len(got) != 1 || got[0].Tier() != TierHostPinned {
			t.Fatalf("%s: got %+v", name, got)
		}
		if len(got[0].Extra) != 7 {
			t.Errorf("%s: extra %+v", name, got[0].Extra)
		}
		got[0].Extra = nil
		checkEvent(t, name, &got[0], want)
	}
	_, got := decodeAll(t, pack(list{1.5, list{
		object{"event_type", "removed", "seq_hashes", list{}, "block_hashes", list{3}},
		object{"block_hashes", nil, "event_type", "removed", "seq_hashes", list{4}},
		object{"event_type", "cleared"},
		object{"event_type", "stored", "seq_hashes", list{}, "object_key", "key"},
	}}))
	if got[0].Hashes[0] != 3 || got[1].Hashes[0] != 4 || got[2].Kind != Cleared || got[3].Kind != Stored {
		t.Errorf("got %+v", got)
	}
}

// TensorRT-LLM's maps have neither LoRA id nor medium, and list multimodal objects.
func TestTensorRT(t *testing.T) {
	t.Parallel()
	_, got := decodeAll(t, pack(list{1.5, list{object{"type", "BlockStored", "block_hashes", list{-5, 6}, "parent_block_hash", nil,
		"token_ids", list{1, 2, 3, 4}, "block_size", 2, "lora_name", "a", "cache_salt", "s", "block_mm_infos",
		list{nil, object{"mm_objects", list{object{"mm_hash", 99, "offsets", list{list{0, 1}}, "later", 1}}}}}}, 3}))
	checkEvent(t, "media", &got[0], Event{Kind: Stored, Tag: "BlockStored", Rank: Some(uint32(3)), Hashes: []uint64{1<<64 - 5, 6},
		Tokens: []uint32{1, 2, 3, 4}, BlockSize: 2, LoRAName: "a", Salt: "s", Media: [][]MediaObject{nil, {{99, [][2]uint64{{0, 1}}}}}})
}

// All heads of containers in all widths.
func TestHeadForms(t *testing.T) {
	t.Parallel()
	head := func(code byte, width int, n uint64) []byte {
		return append([]byte{code}, binary.BigEndian.AppendUint64(nil, n)[8-width:]...)
	}
	for _, arrays := range [][]byte{{0x91}, head(0xdc, 2, 1), head(0xdd, 4, 1)} {
		for _, maps := range [][]byte{{0x84}, head(0xde, 2, 4), head(0xdf, 4, 4)} {
			payload := slices.Concat(pack(1.5), arrays, maps, pack("type"), pack("BlockStored"), pack("block_hashes"), arrays, pack(5),
				pack("token_ids"), arrays, pack(6), pack("block_size"), pack(1))
			_, got := decodeAll(t, append(head(0xdc, 2, 2), payload...))
			if got[0].Kind != Stored || got[0].Hashes[0] != 5 || got[0].Tokens[0] != 6 {
				t.Errorf("%x %x: got %+v", arrays, maps, got[0])
			}
		}
	}
}
