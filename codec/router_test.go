package codec_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dynplane/dynplane/codec"
)

// The events of Dynamo's KV router, as Go types.
type routerEvent struct {
	WorkerID    uint64  `json:"worker_id"`
	StorageTier string  `json:"storage_tier"`
	Event       kvEvent `json:"event"`
}

type kvEvent struct {
	EventID uint64 `json:"event_id"`
	Data    kvData `json:"data"`
	DPRank  uint32 `json:"dp_rank"`
}

// kvData is one of three variants. serde writes the variant without content as a
// string, and the others as a map of one pair.
type kvData struct {
	Stored  *stored  `json:"stored,omitempty"`
	Removed *removed `json:"removed,omitempty"`
	Cleared bool     `json:"-"`
}

type kvDataMap kvData // without the methods

func (d kvData) EncodeMsgpack(enc *msgpack.Encoder) error {
	if d.Cleared {
		return enc.EncodeString("cleared")
	}
	return enc.Encode((*kvDataMap)(&d))
}

func (d *kvData) DecodeMsgpack(dec *msgpack.Decoder) error {
	code, err := dec.PeekCode()
	if err != nil {
		return err
	}
	if code>>5 != 0b101 { // no fixstr
		return dec.Decode((*kvDataMap)(d))
	}
	name, err := dec.DecodeString()
	if err == nil && name != "cleared" {
		err = errors.New("want cleared")
	}
	d.Cleared = true
	return err
}

type stored struct {
	ParentHash    *uint64 `json:"parent_hash"`
	StartPosition *uint32 `json:"start_position"`
	Blocks        []block `json:"blocks"`
}

type block struct {
	BlockHash   uint64    `json:"block_hash"`
	TokensHash  uint64    `json:"tokens_hash"`
	MMExtraInfo *struct{} `json:"mm_extra_info"`
}

type removed struct {
	BlockHashes []uint64 `json:"block_hashes"`
}

type activeLoad struct {
	WorkerID            uint64  `json:"worker_id"`
	DPRank              uint32  `json:"dp_rank"`
	ActiveDecodeBlocks  *uint64 `json:"active_decode_blocks"`
	ActivePrefillTokens *uint64 `json:"active_prefill_tokens"`
	KVUsedBlocks        *uint64 `json:"kv_used_blocks"`
}

// storedEvent is an event with n blocks.
func storedEvent(n int) routerEvent {
	parent := uint64(0x0123456789abcdef)
	ev := routerEvent{WorkerID: 9, StorageTier: "device", Event: kvEvent{EventID: 1, Data: kvData{Stored: &stored{ParentHash: &parent}}}}
	for i := range uint64(n) {
		ev.Event.Data.Stored.Blocks = append(ev.Event.Data.Stored.Blocks,
			block{BlockHash: 0x9e3779b97f4a7c15 * (i + 1), TokensHash: 0xc2b2ae3d27d4eb4f * (i + 1)})
	}
	return ev
}

// Golden bytes of docs/protocol.md.
func TestRouterEventVectors(t *testing.T) {
	t.Parallel()
	decode := uint64(17)
	for _, c := range []struct {
		name  string
		value any
		wire  string
	}{
		{"B", []routerEvent{{WorkerID: 9, StorageTier: "device", Event: kvEvent{EventID: 1, Data: kvData{
			Stored: &stored{Blocks: []block{{BlockHash: 0x1122334455667788, TokensHash: 0x99}}}}}}}, `
			91 83 a9 77 6f 72 6b 65 72 5f 69 64 09 ac 73 74 6f 72 61 67 65 5f 74 69 65 72 a6 64 65 76 69 63 65 a5 65 76 65 6e 74
			83 a8 65 76 65 6e 74 5f 69 64 01 a4 64 61 74 61 81 a6 73 74 6f 72 65 64 83 ab 70 61 72 65 6e 74 5f 68 61 73 68 c0 ae
			73 74 61 72 74 5f 70 6f 73 69 74 69 6f 6e c0 a6 62 6c 6f 63 6b 73 91 83 aa 62 6c 6f 63 6b 5f 68 61 73 68 cf 11 22 33
			44 55 66 77 88 ab 74 6f 6b 65 6e 73 5f 68 61 73 68 cc 99 ad 6d 6d 5f 65 78 74 72 61 5f 69 6e 66 6f c0 a7 64 70 5f 72
			61 6e 6b 00`},
		{"C", routerEvent{WorkerID: 9, StorageTier: "device", Event: kvEvent{EventID: 2, Data: kvData{Cleared: true}}}, `
			83 a9 77 6f 72 6b 65 72 5f 69 64 09 ac 73 74 6f 72 61 67 65 5f 74 69 65 72 a6 64 65 76 69 63 65 a5 65 76 65 6e 74
			83 a8 65 76 65 6e 74 5f 69 64 02 a4 64 61 74 61 a7 63 6c 65 61 72 65 64 a7 64 70 5f 72 61 6e 6b 00`},
		{"D", activeLoad{WorkerID: 0x1f4a2b, ActiveDecodeBlocks: &decode}, `
			85 a9 77 6f 72 6b 65 72 5f 69 64 ce 00 1f 4a 2b a7 64 70 5f 72 61 6e 6b 00 b4 61 63 74 69 76 65 5f 64 65 63 6f 64
			65 5f 62 6c 6f 63 6b 73 11 b5 61 63 74 69 76 65 5f 70 72 65 66 69 6c 6c 5f 74 6f 6b 65 6e 73 c0 ae 6b 76 5f 75 73
			65 64 5f 62 6c 6f 63 6b 73 c0`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			wire := unhex(t, c.wire)
			got, err := codec.Msgpack.Append(nil, c.value)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, wire) {
				t.Errorf("encoded\n%x, want\n%x", got, wire)
			}
			back := reflect.New(reflect.TypeOf(c.value))
			if err := codec.Msgpack.Unmarshal(wire, back.Interface()); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(back.Elem().Interface(), c.value) {
				t.Errorf("decoded %+v, want %+v", back.Elem(), c.value)
			}
		})
	}
}

// Vector A: the envelope within frame 3 of a ZMQ message.
func TestEnvelopeVectorA(t *testing.T) {
	t.Parallel()
	env := codec.Envelope{PublisherID: 12345, Sequence: 42, PublishedAt: 1700000000000, Topic: "test-topic", Payload: []byte("payload")}
	got, err := env.Append(nil, codec.Msgpack)
	if err != nil {
		t.Fatal(err)
	}
	want := unhex(t, `85 ac 70 75 62 6c 69 73 68 65 72 5f 69 64 cd 30 39 a8 73 65 71 75 65 6e 63 65 2a
		ac 70 75 62 6c 69 73 68 65 64 5f 61 74 cf 00 00 01 8b cf e5 68 00 a5 74 6f 70 69 63 aa 74 65 73 74 2d 74 6f 70 69 63
		a7 70 61 79 6c 6f 61 64 c4 07 70 61 79 6c 6f 61 64`)
	if !bytes.Equal(got, want) || len(got) != 83 {
		t.Errorf("encoded\n%x, want\n%x", got, want)
	}
}

// Lengths at which the width changes. The bytes are those of the library.
func TestEnvelopeLengths(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 31, 32, 255, 256, 65535, 65536} {
		topic, payload := strings.Repeat("t", n), bytes.Repeat([]byte("p"), n)
		env := codec.Envelope{Topic: topic, Payload: payload}
		got, err := env.Append(nil, codec.Msgpack)
		if err != nil {
			t.Fatal(err)
		}
		want, err := codec.Msgpack.Append(nil, rawEnvelope{Topic: topic, Payload: payload})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes of topic and payload: the library writes other bytes", n)
		}
		var back codec.Envelope
		if err := back.Decode(want); err != nil || back.Topic != topic || !bytes.Equal(back.Payload, payload) {
			t.Errorf("%d bytes of topic and payload: got %d and %d, error %v", n, len(back.Topic), len(back.Payload), err)
		}
	}
}
