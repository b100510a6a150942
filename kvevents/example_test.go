package kvevents_test

import (
	"encoding/hex"
	"fmt"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/kvevents"
)

// A worker publishes the blocks that it has stored, and a router reads them. Both
// can leave the encoding to a codec, as the event plane does.
func Example() {
	sent := kvevents.RouterEvents{{
		Kind: kvevents.Stored, Worker: 42, ID: 1, Domain: "worker",
		Hashes:       []uint64{0x1111, 0x2222},
		TokensHashes: kvevents.AppendTokensHashes(nil, []uint32{1, 2, 3, 4, 5, 6, 7, 8}, 4, kvevents.TokensHashOptions{}),
	}}
	for _, c := range []codec.Codec{codec.Msgpack, codec.JSON} {
		payload, err := c.Append(nil, sent)
		if err != nil {
			fmt.Println(err)
			return
		}
		var events kvevents.RouterEvents
		if err := c.Unmarshal(payload, &events); err != nil {
			fmt.Println(err)
			return
		}
		for _, e := range events {
			fmt.Printf("%s: worker %d %v %x on %v, tokens %x\n", c.Name(), e.Worker, e.Kind, e.Hashes, e.Tier(), e.TokensHashes)
		}
	}
	// Output:
	// msgpack: worker 42 stored [1111 2222] on device, tokens [cb38e4d7fb2dca5c e8d3ec39b907b74c]
	// json: worker 42 stored [1111 2222] on device, tokens [cb38e4d7fb2dca5c e8d3ec39b907b74c]
}

// vllmPayload is a message of vLLM 0.33: a stored block, and an event that no
// version sends.
func vllmPayload() []byte {
	b, err := hex.DecodeString("93cb41d954fc4020000092de0008a474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657391cfb278992a3967c67f" +
		"b1706172656e745f626c6f636b5f68617368c0a9746f6b656e5f6964739404050607aa626c6f636b5f73697a6504a76c6f72615f6964c0a66d656469756d" +
		"a3475055a96c6f72615f6e616d65c092ac426c6f636b52656d6f766564c000")
	if err != nil {
		fmt.Println(err)
	}
	return b
}

// A Decoder is used for all messages of an engine. An invalid event does not affect
// the others.
func ExampleDecoder_Engine() {
	var d kvevents.Decoder
	batch, err := d.Engine(vllmPayload())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("events:", batch.Len, "rank:", batch.Rank.Value)
	for e := range d.Events() {
		if e.Problem != nil {
			fmt.Println(e.Kind, e.Tag, "-", e.Problem)
			continue
		}
		fmt.Println(e.Kind, e.Medium, e.Tokens, "parent:", e.Parent.Present)
		fmt.Printf("%+v\n", e.Key(0))
	}
	// Output:
	// events: 2 rank: 0
	// stored GPU [4 5 6 7] parent: false
	// {Rank:0 Group:{Value:0 Present:false} Medium:GPU Hash:12860197142587229823}
	// unknown BlockRemoved - kvevents: decode: field "block_hashes" at byte 145: type: want an array of hashes
}

// A bridge publishes the events of an engine as those of a Dynamo worker, and
// reports which it had to withhold.
func ExampleConverter() {
	var d kvevents.Decoder
	c := kvevents.Converter{Worker: 42, BlockSize: 4}
	if _, err := d.Engine(vllmPayload()); err != nil {
		fmt.Println(err)
		return
	}
	id := uint64(0)
	for e := range d.Events() {
		out := c.Convert(e)
		if out == nil {
			continue
		}
		id++
		out.ID = id
		payload, err := kvevents.AppendRouterEvents(nil, []kvevents.Event{*out})
		if err != nil {
			fmt.Println(err)
			return
		}
		text, err := codec.AppendJSON(nil, payload)
		fmt.Println(string(text), err)
	}
	for _, l := range kvevents.Losses() {
		if n := c.Lost(l); n > 0 {
			fmt.Println("withheld:", l, n)
		}
	}
	// Output:
	// [{"worker_id":42,"storage_tier":"device","residency_domain":"worker","event":{"event_id":1,"data":{"stored":{"parent_hash":null,"start_position":null,"blocks":[{"block_hash":12860197142587229823,"tokens_hash":12124091508212882195,"mm_extra_info":null}]}},"dp_rank":0}}] <nil>
	// withheld: unknown 1
}

// The payload of another topic of Dynamo.
func ExampleActiveLoad() {
	load := kvevents.ActiveLoad{Worker: 42, KVUsedBlocks: kvevents.Some(uint64(1000))}
	text, err := codec.JSON.Append(nil, load)
	fmt.Println(string(text), err)
	var back kvevents.ActiveLoad
	fmt.Println(codec.JSON.Unmarshal(text, &back), back.KVUsedBlocks.Value, back.ActiveDecodeBlocks.Present)
	// Output:
	// {"worker_id":42,"dp_rank":0,"active_decode_blocks":null,"active_prefill_tokens":null,"kv_used_blocks":1000} <nil>
	// <nil> 1000 false
}

// A router reads the answer to a query for a worker's state.
func ExampleStateAnswer() {
	item := []byte(`{"TreeDump":{"events":[{"worker_id":42,"event":{"event_id":0,"data":{"removed":{"block_hashes":[17]}}}}],"last_event_id":9}}`)
	var answer kvevents.StateAnswer
	if err := answer.UnmarshalJSON(item); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(answer.Kind, "up to event", answer.LastID)
	d := kvevents.Decoder{MaxBytes: 256 << 20}
	if _, err := d.Router(answer.Events); err != nil {
		fmt.Println(err)
		return
	}
	for e := range d.Events() {
		fmt.Println(e.Worker, e.Kind, e.Hashes)
	}
	// Output:
	// TreeDump up to event 9
	// 42 removed [17]
}
