package codec_test

import (
	"errors"
	"fmt"

	"github.com/dynplane/dynplane/codec"
)

type load struct {
	WorkerID uint64  `json:"worker_id"`
	Blocks   *uint64 `json:"active_decode_blocks"`
}

// An event is encoded in an envelope and decoded again. The envelope has the codec,
// so the receiver need not be configured with it.
func Example() {
	for _, c := range []codec.Codec{codec.JSON, codec.Msgpack} {
		payload, err := c.Append(nil, load{WorkerID: 42})
		if err != nil {
			fmt.Println(err)
			return
		}
		sent := codec.Envelope{PublisherID: 7, Sequence: 0, PublishedAt: 1700000000000, Topic: "kv_metrics", Payload: payload}
		wire, err := sent.Append(nil, c)
		if err != nil {
			fmt.Println(err)
			return
		}

		var got codec.Envelope
		if err := got.Decode(wire); err != nil {
			fmt.Println(err)
			return
		}
		var event load
		if err := got.Codec.Unmarshal(got.Payload, &event); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(got.Codec.Name(), got.Topic, got.PublisherID, got.Sequence, event.WorkerID)
	}
	// Output:
	// json kv_metrics 7 0 42
	// msgpack kv_metrics 7 0 42
}

func ExampleEnvelope_Append() {
	env := codec.Envelope{PublisherID: 7, Sequence: 3, PublishedAt: 1700000000000, Topic: "notes"}

	env.Payload = []byte(`{"text":"hello"}`)
	wire, err := env.Append(nil, codec.JSON)
	fmt.Println(string(wire), err)

	env.Payload, env.Bytes = []byte("hello"), true
	wire, err = env.Append(nil, codec.JSON)
	fmt.Println(string(wire), err)
	// Output:
	// {"publisher_id":7,"sequence":3,"published_at":1700000000000,"topic":"notes","event":{"text":"hello"}} <nil>
	// {"publisher_id":7,"sequence":3,"published_at":1700000000000,"topic":"notes","payload":"aGVsbG8="} <nil>
}

func ExampleEnvelope_Decode_malformed() {
	var env codec.Envelope
	err := env.Decode([]byte("\xdd\xff\xff\xff\xff")) // an array of 2³²−1 elements, without them
	fmt.Println(err)

	err = env.Decode([]byte(`{"publisher_id":-1}`))
	if format, ok := errors.AsType[*codec.FormatError](err); ok {
		fmt.Println(format.Field, "at", format.Offset, "-", format.Reason)
	}
	// Output:
	// codec: msgpack: byte 5: array of 4294967295 elements: only 0 bytes are left
	// publisher_id at 16 - got -1: want an integer from 0 to 2^64-1
}

func ExampleLookup() {
	_, err := codec.Lookup("cbor")
	fmt.Println(err)
	// Output: codec: unknown codec "cbor": want json or msgpack
}

func ExampleAppendJSON() {
	value, err := codec.Msgpack.Append(nil, load{WorkerID: 1<<64 - 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	text, err := codec.AppendJSON(nil, value)
	fmt.Println(string(text), err)
	// Output: {"worker_id":18446744073709551615,"active_decode_blocks":null} <nil>
}
