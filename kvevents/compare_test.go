package kvevents

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
)

// elements are the names of the elements of arrays, as maps name them.
var elements = map[string][]string{
	"BlockStored": {"type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name",
		"extra_keys", "group_idx", "kv_cache_spec_kind", "kv_cache_spec_sliding_window"},
	"BlockRemoved":     {"type", "block_hashes", "medium", "group_idx"},
	"AllBlocksCleared": {"type"},
}

// wantFields returns the fields of an event as the JSON beside a frame has it. Those
// that are nil are left out.
func wantFields(event any) map[string]string {
	fields, _ := event.(map[string]any)
	if list, ok := event.([]any); ok {
		fields = map[string]any{}
		for i, v := range list {
			if m, ok := v.(map[string]any); ok && i == 7 {
				maps.Copy(fields, m)
				continue
			}
			fields[elements[list[0].(string)][i]] = v
		}
	}
	want := map[string]string{}
	for name, v := range fields {
		switch {
		case v == nil:
		case name == "block_hashes":
			hashes := []string{}
			for _, h := range v.([]any) {
				hashes = append(hashes, wantHash(h))
			}
			want[name] = fmt.Sprint(hashes)
		case name == "parent_block_hash":
			want[name] = wantHash(v)
		case name == "extra_keys" || name == "lookahead_token_ids":
			text, _ := json.Marshal(v)
			want[name] = string(text)
		default:
			want[name] = fmt.Sprint(v)
		}
	}
	return want
}

func wantHash(v any) string {
	if m, ok := v.(map[string]any); ok {
		digest := m["bin"].(string)
		return digest[len(digest)-16:]
	}
	text := v.(json.Number).String()
	var u uint64
	if strings.HasPrefix(text, "-") {
		var i int64
		_, _ = fmt.Sscan(text, &i)
		u = uint64(i)
	} else {
		_, _ = fmt.Sscan(text, &u)
	}
	return fmt.Sprintf("%016x", u)
}

// gotFields returns the fields of a decoded event under their names on the wire.
func gotFields(t *testing.T, e *Event) map[string]string {
	t.Helper()
	got := map[string]string{"type": e.Tag}
	set := func(name string, present bool, v any) {
		if present {
			got[name] = fmt.Sprint(v)
		}
	}
	hashes := []string{}
	for _, h := range e.Hashes {
		hashes = append(hashes, fmt.Sprintf("%016x", h))
	}
	stored := e.Kind == Stored
	set("block_hashes", e.Kind != Cleared, hashes)
	set("parent_block_hash", e.Parent.Present, fmt.Sprintf("%016x", e.Parent.Value))
	set("token_ids", stored && len(e.Pairs) == 0, e.Tokens)
	set("token_ids", len(e.Pairs) != 0, e.Pairs)
	set("block_size", stored, e.BlockSize)
	set("lora_id", e.LoRAID.Present, e.LoRAID.Value)
	set("group_idx", e.Group.Present, e.Group.Value)
	set("kv_cache_spec_sliding_window", e.SlidingWindow.Present, e.SlidingWindow.Value)
	for name, v := range map[string]string{"medium": e.Medium, "lora_name": e.LoRAName, "kv_cache_spec_kind": e.SpecKind,
		"locality": e.Locality, "ownership": e.Ownership, "session_id": e.Session, "cache_salt": e.Salt} {
		set(name, v != "", v)
	}
	for name, raw := range map[string][]byte{"extra_keys": e.ExtraKeys, "lookahead_token_ids": e.Lookahead} {
		if raw != nil {
			got[name] = rawText(t, raw)
		}
	}
	for _, f := range e.Extra {
		got[f.Name] = rawText(t, f.Value)
	}
	return got
}

// rawText returns a raw value as JSON, with bytes as the vectors have them.
func rawText(t *testing.T, raw []byte) string {
	t.Helper()
	r := reader{data: raw}
	v := r.any()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// any is a reader of anything, for tests.
func (r *reader) any() any {
	switch r.kind() {
	case kindArray:
		n, _ := r.array()
		list := make([]any, n)
		for i := range list {
			list[i] = r.any()
		}
		return list
	case kindMap:
		n, _ := r.object()
		m := map[string]any{}
		for range n {
			k := fmt.Sprint(r.any())
			m[k] = r.any()
		}
		return m
	case kindStr:
		b, _ := r.bytes(kindStr)
		return string(b)
	case kindBin:
		b, _ := r.bytes(kindBin)
		return map[string]any{"bin": fmt.Sprintf("%x", b)}
	case kindUint, kindInt:
		v, negative, _ := r.int()
		if negative {
			return int64(v)
		}
		return v
	case kindFloat:
		v, _ := r.float()
		return v
	case kindBool:
		r.pos++
		return r.data[r.pos-1] == 0xc3
	}
	r.pos++
	return nil
}

func fromJSON(t *testing.T, text string) any {
	t.Helper()
	var v any
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// checkEvent compares all but Raw, and takes empty slices for nil.
func checkEvent(t *testing.T, name string, e *Event, want Event) {
	t.Helper()
	got := *e
	got.Raw = nil
	for _, f := range reflect.ValueOf(&got).Elem().Fields() {
		if f.Kind() == reflect.Slice && f.Len() == 0 {
			f.SetZero()
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got\n%+v, want\n%+v", name, got, want)
	}
}

// list and object build payloads.
type list []any

type object []any // key, value, key, value...

func pack(v any) []byte {
	w := writer{}
	w.any(v)
	return w.b
}

func (w *writer) any(v any) {
	switch v := v.(type) {
	case nil:
		w.nil()
	case int:
		w.int(int64(v))
	case uint64:
		w.uint(v)
	case float64:
		w.float(v)
	case string:
		w.string(v)
	case bool:
		w.bool(v)
	case []byte: // raw
		w.b = append(w.b, v...)
	case list:
		w.array(len(v))
		for _, e := range v {
			w.any(e)
		}
	case object:
		w.object(len(v) / 2)
		for _, e := range v {
			w.any(e)
		}
	default:
		panic(fmt.Sprintf("%T", v)) //nolint:forbidigo // a mistake in a test
	}
}

// decodeAll returns copies of all events of a payload.
func decodeAll(t *testing.T, payload []byte) (Batch, []Event) {
	t.Helper()
	var d Decoder
	batch, err := d.Engine(payload)
	if err != nil {
		t.Fatal(err)
	}
	var events []Event
	for e := range d.Events() {
		events = append(events, e.Clone())
	}
	return batch, events
}

func storedMap(hash any) object {
	return object{"token_ids", list{1, 2}, "block_hashes", list{hash}, "block_size", 2, "type", "BlockStored"}
}
