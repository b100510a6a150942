package kvevents

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"slices"
	"testing"
)

// batchOf returns a batch of one event, which is raw.
func batchOf(event []byte) []byte { return slices.Concat([]byte{0x92, 0x01, 0x91}, event) }

// hostile are payloads that claim more than they have, nest, or are no msgpack.
func hostile() map[string][]byte {
	all := map[string][]byte{
		"empty":             {},
		"c1":                {0xc1},
		"only a head":       {0x93},
		"batch array32":     slices.Concat(pack(list{1.5}), []byte{0xdd, 0xff, 0xff, 0xff, 0xff}),
		"15 bytes":          {0x93, 0xcb, 0, 0, 0, 0, 0, 0, 0, 0, 0xdd, 0xff, 0xff, 0xff, 0xff},
		"events array32":    {0x92, 0x01, 0xdd, 0xff, 0xff, 0xff, 0xff},
		"batch map32":       {0xdf, 0xff, 0xff, 0xff, 0xff},
		"batch map32, 2^31": {0xdf, 0x80, 0, 0, 0},
		"truncated key":     {0x81, 0xa9},
		"truncated ts":      {0x92, 0xcb, 0},
		"truncated head":    batchOf([]byte{0xdd, 0xff}),
		"ext32":             batchOf([]byte{0xc9, 0xff, 0xff, 0xff, 0xff, 1}),
		"bin32":             batchOf([]byte{0xc6, 0xff, 0xff, 0xff, 0xff}),
		"str32":             batchOf([]byte{0xdb, 0xff, 0xff, 0xff, 0xff}),
		"fixext at the end": batchOf([]byte{0xd8, 1, 2}),
		"hashes array32":    batchOf(slices.Concat([]byte{0x92}, pack("BlockRemoved"), []byte{0xdd, 0xff, 0xff, 0xff, 0xff})),
		"nested counts":     batchOf(bytes.Repeat([]byte{0xdd, 0, 0, 0, 60}, 20)),
	}
	for name, head := range map[string][]byte{"arrays": {0x91}, "maps": {0x81, 0xc0}, "map keys": {0x81}} {
		deep := append(bytes.Repeat(head, 100000), 0xc0)
		if name == "map keys" {
			deep = append(deep, bytes.Repeat([]byte{0xc0}, 100000)...)
		}
		all["deep "+name] = deep
		all["event of deep "+name] = batchOf(deep)
	}
	for _, cut := range []int{1, 5, 20, 40, 60} {
		all["cut "+string(rune('0'+cut/10))] = pack(list{1.5, list{storedMap(1)}, 3})[:cut]
	}
	return all
}

// Nothing of it panics, or takes memory that the input does not have.
func TestHostilePayloads(t *testing.T) {
	t.Parallel()
	for name, payload := range hostile() {
		var d Decoder
		for kind, begin := range map[string]func([]byte) (Batch, error){"engine": d.Engine, "router": d.Router} {
			_, err := begin(payload)
			good := 0
			for e := range d.Events() {
				if e.Problem == nil {
					good++
				}
			}
			if err == nil && good > 0 {
				t.Errorf("%s, %s: %d good events", name, kind, good)
			}
		}
		FormOf(payload)
		for _, v := range values() {
			if err := v.UnmarshalMsgpack(payload); err == nil && len(payload) > 0 && !bytes.Contains(payload, []byte{0x81, 0xc0}) && payload[0]>>4 != 8 && payload[0]>>4 != 9 {
				t.Errorf("%s: %T takes it", name, v)
			}
		}
	}
}

// values returns one of each type that decodes itself.
func values() []interface{ UnmarshalMsgpack([]byte) error } {
	return []interface{ UnmarshalMsgpack([]byte) error }{
		&RouterEvents{}, &ActiveLoad{}, &ActiveSequences{}, &ForwardPassMetrics{}, &LoadStat{}, &StateQuery{}, &StateAnswer{},
	}
}

func TestReasonsOfPayloads(t *testing.T) {
	t.Parallel()
	good := pack(list{1.5, list{storedMap(1)}, 3})
	for name, c := range map[string]struct {
		payload []byte
		want    Reason
	}{
		"good":         {good, 0},
		"empty":        {nil, ReasonTruncated},
		"trailing":     {append(slices.Clone(good), 0), ReasonTrailing},
		"one too few":  {good[:len(good)-1], ReasonTruncated},
		"array32":      {[]byte{0x92, 0x01, 0xdd, 0xff, 0xff, 0xff, 0xff}, ReasonTruncated},
		"an integer":   {[]byte{5}, ReasonShape},
		"16 MiB + 1":   {make([]byte, DefaultMaxBytes+1), ReasonTooLarge},
		"no such byte": {[]byte{0xc1}, ReasonShape},
	} {
		var d Decoder
		if _, err := d.Engine(c.payload); reasonOf(err) != c.want {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	for _, payload := range []string{"{", `{"a":}`, `[1,]`, `{"worker_id":1e999}`, "{}{}"} {
		var d Decoder
		if _, err := d.Router([]byte(payload)); reasonOf(err) != ReasonSyntax && reasonOf(err) != ReasonRange {
			t.Errorf("%q: got %v", payload, err)
		}
	}
	var d Decoder
	if _, err := d.Router(bytes.Repeat([]byte("["), 5000)); reasonOf(err) != ReasonSyntax {
		t.Errorf("open brackets: got %v", err)
	}
	deep := slices.Concat(bytes.Repeat([]byte("["), 5000), bytes.Repeat([]byte("]"), 5000))
	if _, err := d.Router(deep); reasonOf(err) != ReasonDepth {
		t.Errorf("deep JSON: got %v", err)
	}
}

// A batch of exactly 16 MiB passes, as one huge event, or as very many.
func TestLargestBatch(t *testing.T) {
	t.Parallel()
	token := []byte{0xce, 0, 1, 0x23, 0x45}
	n := (DefaultMaxBytes - 100) / len(token)
	event := slices.Concat([]byte{0x96}, pack("BlockStored"), pack(list{uint64(1 << 63)}), []byte{0xc0, 0xdd},
		binary.BigEndian.AppendUint32(nil, uint32(n)), bytes.Repeat(token, n), []byte{16, 0xc0})
	payload := slices.Concat([]byte{0x94, 0x01, 0x91}, event, []byte{0xc0, 0xda, 0, 0})
	pad := DefaultMaxBytes - len(payload)
	payload = append(payload, make([]byte, pad)...) // a text fills it up
	binary.BigEndian.PutUint16(payload[DefaultMaxBytes-pad-2:], uint16(pad))
	var d Decoder
	if _, err := d.Engine(payload); err != nil {
		t.Fatal(err)
	}
	for e := range d.Events() {
		if len(e.Tokens) != n || e.Tokens[n-1] != 0x12345 || e.Problem != nil {
			t.Errorf("%d tokens, problem %v", len(e.Tokens), e.Problem)
		}
	}

	removed := pack(list{"BlockRemoved", list{uint64(1 << 63)}, "GPU"})
	n = (DefaultMaxBytes - 7) / len(removed)
	many := slices.Concat([]byte{0x92, 0x01, 0xdd}, binary.BigEndian.AppendUint32(nil, uint32(n)), bytes.Repeat(removed, n))
	if len(many) < DefaultMaxBytes-len(removed) || len(many) > DefaultMaxBytes {
		t.Fatalf("%d bytes", len(many))
	}
	if _, err := d.Engine(many); err != nil {
		t.Fatal(err)
	}
	count := 0
	for e := range d.Events() {
		if e.Kind == Removed {
			count++
		}
	}
	if count != n {
		t.Errorf("%d events, want %d", count, n)
	}
}

// Memory does not grow with the number of events, invalid ones included.
func TestConstantMemory(t *testing.T) {
	payload := slices.Concat([]byte{0x92, 0x01, 0xdd}, binary.BigEndian.AppendUint32(nil, 1<<20), bytes.Repeat([]byte{0x05}, 1<<20))
	var d Decoder
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := d.Engine(payload); err != nil {
		t.Fatal(err)
	}
	invalid := 0
	for e := range d.Events() {
		if e.Problem != nil {
			invalid++
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; invalid != 1<<20 || grown > 1<<20 {
		t.Errorf("%d invalid events took %d bytes", invalid, grown)
	}
	for _, v := range []interface{ UnmarshalMsgpack([]byte) error }{&RouterEvents{}, &ActiveSequences{}} {
		values := slices.Concat([]byte{0xdd}, binary.BigEndian.AppendUint32(nil, 1<<20), bytes.Repeat([]byte{0x05}, 1<<20))
		if _, isMap := v.(*ActiveSequences); isMap {
			values = slices.Concat([]byte{0x81}, pack("events"), values)
		}
		if err := v.UnmarshalMsgpack(values); reasonOf(err) != ReasonTooMany {
			t.Errorf("%T: got %v", v, err)
		}
	}
}

// A huge event leaves no huge memory behind.
func TestMemoryIsReturned(t *testing.T) {
	t.Parallel()
	hashes := list{}
	for range maxKept + 1 {
		hashes = append(hashes, 1)
	}
	var d Decoder
	for _, events := range []list{{list{"BlockRemoved", hashes}}, {list{"BlockRemoved", list{1}}}} {
		if _, err := d.Engine(pack(list{1.5, events})); err != nil {
			t.Fatal(err)
		}
		for e := range d.Events() {
			if want := len(events[0].(list)[1].(list)); len(e.Hashes) != want || want == 1 && cap(e.Hashes) > 100 {
				t.Errorf("%d hashes in memory for %d, want %d", len(e.Hashes), cap(e.Hashes), want)
			}
		}
	}
}

// A decoder that is reused takes no memory, and a new one at most one allocation
// for each slice.
func TestAllocations(t *testing.T) {
	payload := vllmBatch(64)
	var d Decoder
	decode := func(d *Decoder) {
		if _, err := d.Engine(payload); err != nil {
			t.Error(err)
		}
		for e := range d.Events() {
			if e.Kind != Stored {
				t.Error(e.Problem)
			}
		}
	}
	decode(&d)
	if n := testing.AllocsPerRun(100, func() { decode(&d) }); n != 0 {
		t.Errorf("a reused decoder: %v allocations, want none", n)
	}
	// Hashes and tokens, and the few strings that it remembers.
	few := testing.AllocsPerRun(100, func() { decode(new(Decoder)) })
	payload = vllmBatch(4096)
	if many := testing.AllocsPerRun(10, func() { decode(new(Decoder)) }); few > 16 || many > few {
		t.Errorf("a new decoder: %v allocations for 64 blocks, %v for 4,096", few, many)
	}
	dynamo := routerPayload(t, 64)
	route := func() {
		if _, err := d.Router(dynamo); err != nil {
			t.Error(err)
		}
		for e := range d.Events() {
			if len(e.Hashes) != 64 {
				t.Error(e.Problem)
			}
		}
	}
	route()
	if n := testing.AllocsPerRun(100, route); n != 0 {
		t.Errorf("a reused decoder of Dynamo's events: %v allocations, want none", n)
	}
}

// vllmBatch returns a batch of vLLM 0.33 with one event of blocks of 16 tokens.
func vllmBatch(blocks int) []byte {
	const size = 16
	hashes, tokens, keys := list{}, list{}, list{}
	for i := range blocks {
		hashes = append(hashes, 0x9e3779b97f4a7c15*uint64(i+1))
		keys = append(keys, nil)
		for j := range size {
			tokens = append(tokens, (i*size+j)*7919%151936)
		}
	}
	return pack(list{1700000000.5, list{object{
		"type", "BlockStored", "block_hashes", hashes, "parent_block_hash", uint64(1 << 63), "token_ids", tokens, "block_size", size,
		"lora_id", nil, "medium", "GPU", "lora_name", nil, "extra_keys", keys, "group_idx", 0,
	}}, 0})
}

// routerPayload returns an array of one stored event of Dynamo.
func routerPayload(t testing.TB, blocks int) []byte {
	t.Helper()
	e := Event{Kind: Stored, Worker: 9, ID: 1, Parent: Some(uint64(1 << 63)), Domain: "worker"}
	for i := range uint64(blocks) {
		e.Hashes = append(e.Hashes, 0x9e3779b97f4a7c15*(i+1))
		e.TokensHashes = append(e.TokensHashes, 0xc2b2ae3d27d4eb4f*(i+1))
	}
	b, err := AppendRouterEvents(nil, []Event{e})
	if err != nil {
		t.Fatal(err)
	}
	return b
}
