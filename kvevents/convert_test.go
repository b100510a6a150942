package kvevents

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// tokenBlocks returns a stored event of n blocks of 4 tokens.
func tokenBlocks(first uint64, n int, change func(*Event)) *Event {
	e := Event{Kind: Stored, Tag: "BlockStored", Medium: "GPU", BlockSize: 4}
	for i := range uint64(n) {
		e.Hashes = append(e.Hashes, first+i)
		for j := range uint32(4) {
			e.Tokens = append(e.Tokens, uint32(first+i)*10+j)
		}
	}
	if change != nil {
		change(&e)
	}
	return &e
}

func TestConvert(t *testing.T) {
	t.Parallel()
	c := Converter{Worker: 9}
	parent := uint64(7)
	in := tokenBlocks(1, 2, func(e *Event) {
		e.Rank, e.Parent, e.Session, e.Medium = Some(uint32(3)), Some(parent), "session-1", "CPU_PINNED"
	})
	checkEvent(t, "stored", c.Convert(in), Event{Kind: Stored, Tag: "stored", Worker: 9, Rank: Some(uint32(3)), Medium: "host_pinned", Domain: "worker",
		Session: "session-1", Parent: Some(parent), Hashes: []uint64{1, 2}, TokensHashes: AppendTokensHashes(nil, in.Tokens, 4, TokensHashOptions{})})
	checkEvent(t, "removed", c.Convert(&Event{Kind: Removed, Hashes: []uint64{2}}), Event{Kind: Removed, Tag: "removed", Worker: 9, Rank: Some(uint32(0)),
		Medium: "device", Domain: "worker", Hashes: []uint64{2}})
	checkEvent(t, "cleared", c.Convert(&Event{Kind: Cleared, Rank: Some(uint32(1))}), Event{Kind: Cleared, Tag: "cleared", Worker: 9, Rank: Some(uint32(1)),
		Medium: "device", Domain: "worker"})
	for _, e := range []*Event{{Kind: Removed}, tokenBlocks(1, 0, nil)} {
		if got := c.Convert(e); got != nil {
			t.Errorf("an empty event: got %+v", got)
		}
	}
	for _, l := range Losses() {
		if c.Lost(l) != 0 || l.String() == "other" {
			t.Errorf("%v: %d lost", l, c.Lost(l))
		}
	}
}

// An event in Dynamo's form passes, and the converter does not write to it.
func TestConvertDynamoEvents(t *testing.T) {
	t.Parallel()
	c := Converter{Worker: 9}
	in := goldenStored(3, 1, 1, "device", "")
	hashes := slices.Clone(in.TokensHashes)
	for range 2 {
		if got := c.Convert(&in); !slices.Equal(got.TokensHashes, hashes) {
			t.Errorf("got %+v", got)
		}
		c.Convert(tokenBlocks(50, 3, nil))
	}
	if !slices.Equal(in.TokensHashes, hashes) {
		t.Errorf("the event was changed: %x", in.TokensHashes)
	}
}

func TestConvertLosses(t *testing.T) {
	t.Parallel()
	mark := strings.Repeat("0", 48)
	set := func(change func(*Event)) *Event { return tokenBlocks(1, 3, change) }
	keys := func(v list) func(*Event) { return func(e *Event) { e.ExtraKeys = pack(v) } }
	for name, c := range map[string]struct {
		event  *Event
		loss   Loss
		blocks int // that remain of 3
	}{
		"good":                 {set(nil), 0, 3},
		"unknown":              {&Event{Tag: "Later"}, LossUnknown, 0},
		"group 1":              {set(func(e *Event) { e.Group = Some(uint32(1)) }), LossGroup, 0},
		"group 0":              {set(func(e *Event) { e.Group = Some(uint32(0)) }), 0, 3},
		"full attention":       {set(func(e *Event) { e.Group, e.SpecKind = Some(uint32(1)), "full_attention" }), 0, 3},
		"sliding window":       {set(func(e *Event) { e.Group, e.SpecKind = Some(uint32(0)), "sliding_window" }), LossGroup, 0},
		"kind later":           {set(func(e *Event) { e.SpecKind = "later" }), LossGroup, 0},
		"block size":           {set(func(e *Event) { e.BlockSize = 3 }), LossBlockSize, 0},
		"placeholder":          {set(func(e *Event) { e.BlockSize, e.Tokens = 0, nil }), LossBlockSize, 0},
		"more tokens":          {set(func(e *Event) { e.Tokens = append(e.Tokens, 1, 2, 3, 4) }), LossTokens, 0},
		"fewer tokens":         {set(func(e *Event) { e.Tokens = e.Tokens[:11] }), LossTokens, 0},
		"no tokens":            {set(func(e *Event) { e.Tokens = nil }), LossTokens, 0},
		"medium":               {set(func(e *Event) { e.Medium = "OBJ" }), LossMedium, 0},
		"medium cpu":           {set(func(e *Event) { e.Medium = "cpu" }), 0, 3},
		"remote":               {set(func(e *Event) { e.Locality = "REMOTE" }), LossLocality, 0},
		"local":                {set(func(e *Event) { e.Locality = "LOCAL" }), 0, 3},
		"owner":                {set(func(e *Event) { e.Ownership = "kvcr" }), LossOwnership, 0},
		"LoRA id alone":        {set(func(e *Event) { e.LoRAID = Some(int64(7)) }), LossLoRA, 0},
		"LoRA id and name":     {set(func(e *Event) { e.LoRAID, e.LoRAName = Some(int64(7)), "adapter-a" }), 0, 3},
		"own parent":           {set(func(e *Event) { e.Parent = Some(uint64(2)) }), LossDuplicate, 0},
		"twice":                {set(func(e *Event) { e.Hashes[2] = 1 }), LossDuplicate, 0},
		"twice of many":        {tokenBlocks(1, 40, func(e *Event) { e.Hashes[39] = 1 }), LossDuplicate, 0},
		"own parent of many":   {tokenBlocks(1, 40, func(e *Event) { e.Parent = Some(uint64(40)) }), LossDuplicate, 0},
		"keys nil":             {set(keys(list{nil, nil, nil})), 0, 3},
		"keys of one block":    {set(keys(list{nil})), 0, 3},
		"image":                {set(keys(list{nil, list{list{"img-5f3a", 0}}, nil})), LossExtraKeys, 1},
		"image, old form":      {set(keys(list{nil, nil, list{"img-5f3a"}})), LossExtraKeys, 2},
		"embeddings":           {set(keys(list{list{[]byte{0xc4, 1, 5}}})), LossExtraKeys, 0},
		"salt without a mark":  {set(keys(list{list{"tenant-1"}})), LossExtraKeys, 0},
		"LoRA name twice":      {set(func(e *Event) { e.LoRAName, e.ExtraKeys = "s", pack(list{list{"s", "s"}}) }), LossExtraKeys, 0},
		"marked image":         {set(keys(list{list{list{"00000000000000ff" + mark, 2}}})), 0, 3},
		"vLLM's own image":     {set(keys(list{list{"0123456789abcdef" + strings.Repeat("ab", 24)}})), LossExtraKeys, 0},
		"keys are a map":       {set(func(e *Event) { e.ExtraKeys = pack(object{}) }), LossExtraKeys, 0},
		"keys of a block: map": {set(keys(list{object{}})), LossExtraKeys, 0},
	} {
		converter := Converter{BlockSize: 4}
		got, n := converter.Convert(c.event), 0
		if got != nil {
			n = len(got.Hashes)
			if len(got.TokensHashes) != n || len(got.Media) != 0 && len(got.Media) != n {
				t.Errorf("%s: got %+v", name, got)
			}
		}
		if n != c.blocks {
			t.Errorf("%s: %d blocks, want %d", name, n, c.blocks)
		}
		for _, l := range Losses() {
			want := 0
			if l == c.loss && n != len(c.event.Hashes) || l == LossUnknown && c.event.Kind == Unknown {
				want = max(1, len(c.event.Hashes)-n)
			}
			if converter.Lost(l) != uint64(want) {
				t.Errorf("%s: %d lost for %v, want %d", name, converter.Lost(l), l, want)
			}
		}
		if c.loss == LossExtraKeys || c.loss == LossLoRA {
			lenient := Converter{BlockSize: 4, Lenient: true}
			if got := lenient.Convert(c.event); got == nil || len(got.Hashes) != 3 || lenient.Lost(c.loss) != 0 {
				t.Errorf("%s, lenient: got %+v", name, got)
			}
		}
	}
}

// The hashes of tokens depend on all of these.
func TestConvertHashes(t *testing.T) {
	t.Parallel()
	const image = "00000000000000ff"
	media := [][]MediaObject{{{Hash: 0xff}}, nil, nil}
	for name, c := range map[string]struct {
		change func(*Event)
		want   TokensHashOptions
	}{
		"LoRA":           {func(e *Event) { e.LoRAName, e.ExtraKeys = "a", pack(list{list{"a"}, list{"a"}, list{"a"}}) }, TokensHashOptions{LoRAName: "a"}},
		"salt":           {func(e *Event) { e.Salt = "s" }, TokensHashOptions{Salt: "s"}},
		"salt in keys":   {func(e *Event) { e.ExtraKeys = pack(list{list{"dynamo-cache-salt:s"}, nil, nil}) }, TokensHashOptions{Salt: "s"}},
		"LoRA as salt":   {func(e *Event) { e.LoRAName, e.ExtraKeys = "s", pack(list{list{"s", "dynamo-cache-salt:s"}}) }, TokensHashOptions{LoRAName: "s", Salt: "s"}},
		"image":          {func(e *Event) { e.ExtraKeys = pack(list{list{list{image + strings.Repeat("0", 48), 2}}}) }, TokensHashOptions{Media: media}},
		"TensorRT image": {func(e *Event) { e.Media = media }, TokensHashOptions{Media: media}},
	} {
		e := tokenBlocks(1, 3, c.change)
		got := (&Converter{}).Convert(e)
		if want := AppendTokensHashes(nil, e.Tokens, 4, c.want); got == nil || !slices.Equal(got.TokensHashes, want) || !reflect.DeepEqual(got.Media, c.want.Media) {
			t.Errorf("%s: got %+v, want %x", name, got, want)
		}
	}
	pairs := &Event{Kind: Stored, BlockSize: 2, Hashes: []uint64{1, 2}, Pairs: [][2]uint32{{10, 11}, {11, 12}, {12, 13}, {13, 14}}}
	got := (&Converter{}).Convert(pairs)
	if want := AppendTokensHashes(nil, []uint32{10, 11, 12, 13, 14}, 2, TokensHashOptions{Pairs: true}); len(want) != 2 || !slices.Equal(got.TokensHashes, want) {
		t.Errorf("pairs: got %x, want %x", got.TokensHashes, want)
	}
}

// vLLM sends the kind of a group, and a salt, only once.
func TestConvertRemembers(t *testing.T) {
	t.Parallel()
	var c Converter
	group := func(rank uint32) func(*Event) {
		return func(e *Event) { e.Rank, e.Group = Some(rank), Some(uint32(2)) }
	}
	kind := tokenBlocks(1, 1, group(0))
	kind.SpecKind = "mla_attention"
	if c.Convert(kind) == nil || c.Convert(tokenBlocks(2, 1, group(0))) == nil || c.Convert(tokenBlocks(3, 1, group(1))) != nil {
		t.Error("the group has full attention at rank 0, and is unknown at rank 1")
	}
	if c.Convert(&Event{Kind: Removed, Rank: Some(uint32(0)), Group: Some(uint32(2)), Hashes: []uint64{1}}) == nil {
		t.Error("removed: the group is known")
	}

	child := func(parent, first uint64, salt string) *Event {
		return tokenBlocks(first, 2, func(e *Event) { e.Parent, e.Salt = Some(parent), salt })
	}
	salted := func(e *Event, salt string) {
		t.Helper()
		got := c.Convert(e)
		if want := AppendTokensHashes(nil, e.Tokens, 4, TokensHashOptions{Salt: salt}); got == nil || !slices.Equal(got.TokensHashes, want) {
			t.Errorf("got %+v, want hashes with salt %q", got, salt)
		}
	}
	salted(tokenBlocks(100, 2, func(e *Event) { e.Salt = "s" }), "s")
	salted(child(101, 102, ""), "s")
	salted(child(103, 104, ""), "s")
	salted(child(105, 200, ""), "s")
	salted(child(999, 300, ""), "")

	// The same block with another salt, as SGLang sends it: its children may be of either.
	salted(child(99, 100, "other"), "other")
	if got := c.Convert(child(101, 400, "")); got != nil || c.Lost(LossSalt) != 2 {
		t.Errorf("a child of an ambiguous block: got %+v, %d lost", got, c.Lost(LossSalt))
	}
	salted(child(101, 410, "s"), "s")

	c.Convert(&Event{Kind: Removed, Hashes: []uint64{103}})
	salted(child(103, 500, ""), "")
	c.Convert(&Event{Kind: Cleared, Rank: Some(uint32(1))})
	salted(child(105, 510, ""), "s")
	c.Convert(&Event{Kind: Cleared})
	salted(child(105, 520, ""), "")
	if len(c.salts) != 0 {
		t.Errorf("%d blocks are remembered after they were cleared", len(c.salts))
	}
}

// A lenient converter makes of each frame what Dynamo's own relay makes of it, where
// that relay can decode it and accepts its medium.
func TestConvertLikeDynamo(t *testing.T) {
	t.Parallel()
	relayed := map[string]string{}
	for _, v := range readGoldens(t, "testdata/dynamo-1.6.1-relay.txt", "relay") {
		relayed[v[0]] = v[1]
	}
	var d Decoder
	compared := 0
	for _, f := range engineFrames(t) {
		want, ok := relayed[f.name]
		if !ok || strings.HasSuffix(f.name, "/stored-medium-cpu") {
			continue
		}
		if _, err := d.Engine(f.payload); err != nil {
			t.Fatal(err)
		}
		c := Converter{Worker: 9, BlockSize: 4, Lenient: true}
		var events []Event
		for e := range d.Events() {
			if out := c.Convert(e); out != nil {
				events = append(events, out.Clone())
			}
		}
		if got, err := AppendRouterEvents(nil, events); err != nil || fmt.Sprintf("%x", got) != want {
			t.Errorf("%s: error %v, got\n%q, want\n%q", f.name, err, got, unhex(t, want))
		}
		compared++
	}
	if compared < 110 {
		t.Errorf("%d frames compared, want nearly all", compared)
	}
}
