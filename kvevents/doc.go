// Package kvevents is the vocabulary of KV-cache events: which blocks an inference
// worker has stored, removed or cleared. It decodes the events of NVIDIA Dynamo and
// of the engines vLLM, SGLang, TokenSpeed, TensorRT-LLM and Mooncake into one type,
// [Event], and encodes those of Dynamo. It uses no network.
//
// A subscriber of Dynamo's topic kv-events decodes with little ceremony:
//
//	for ev, err := range eventplane.Events[kvevents.RouterEvents](ctx, sub) {
//		for _, e := range ev.Value {
//			switch e.Kind {
//			case kvevents.Stored: // e.Worker, e.Rank, e.Parent, e.Hashes, e.TokensHashes
//			case kvevents.Removed: // e.Hashes
//			case kvevents.Cleared:
//			}
//		}
//	}
//
// and publishes a RouterEvents in the same way. [ActiveLoad] is the payload of the
// topic kv_metrics, [ActiveSequences] that of active_sequences_events, and
// [ForwardPassMetrics] that of forward-pass-metrics. Each decodes msgpack and JSON,
// whatever the codec of the envelope is.
//
// A [Decoder] serves busy readers, and those of engines. It returns one event at a
// time and reuses its memory, so that neither the rate of events nor the size of a
// batch costs allocations:
//
//	var d kvevents.Decoder
//	batch, err := d.Engine(payload) // or d.Router(payload)
//	for e := range d.Events() {
//	}
//
// [StateQuery] and [StateAnswer] are the call by which a router that starts late, or
// has missed events, obtains the blocks of a worker; see package requestplane.
//
// A [Converter] turns the events of an engine into those of a Dynamo worker.
//
// # Blocks
//
// A block is identified by its [BlockKey]: rank, group, medium and hash, since the
// same hash can be stored in several groups and media at once. Hashes come from the
// engine; they are opaque, and cover all blocks before theirs. Token ids, if any, do
// not always line up with hashes: engines skip blocks that a sliding window does not
// need, end with a block that is smaller, and list blocks whose tokens they no
// longer have. Dynamo's events carry a hash of the tokens of each block in their
// place, for which see [AppendTokensHashes].
//
// # Forms of engines
//
// The form is recognised by its shape, never by a version. A batch is an array of
// two or more elements (time, events, rank, ...) or a map. An event is an array that
// begins with its type, or a map with the key "type" or "event_type" at any place;
// if a key occurs twice, the last one counts. Mooncake's single events are batches
// of one. Fields that the package does not define are kept in Extra, events that it
// does not define are [Unknown] and kept in Raw, and so are fields with an
// unexpected type, unless they identify blocks.
//
// # Units
//
// Sizes and positions are in tokens or blocks, as each field is documented. Times
// are Unix seconds, durations seconds or a [time.Duration]. A rank is that of data
// parallelism, from 0.
//
// # Errors and hostile input
//
// All decoders accept bytes from the network. The error of a payload is a
// *[DecodeError] with a [Reason] that can be counted. A payload that is not exactly
// one msgpack or JSON value has no events. Otherwise an invalid event affects only
// itself: it is Unknown, and its Problem is the reason.
//
// Lengths and counts are checked against the input before memory is allocated. A
// Decoder takes up to 8 bytes of memory for each byte of the largest event, and a
// payload of at most Decoder.MaxBytes, 16 MiB by default. Values that are kept may be
// nested 128 levels deep. RouterEvents and ActiveSequences take 65,536 events at
// most.
//
// # Concurrency
//
// Functions, and methods of different values, may be called concurrently. The
// methods of one Decoder or Converter must not, and neither must a value be used
// while it is decoded.
//
// # Sources
//
// Dynamo's forms are those of its release 1.6.1 (crate dynamo-kv-router) and were
// compared with the output of its serialiser; 1.3.1 accepts them too. The forms of
// engines are those that the publishers of released vLLM, SGLang and TokenSpeed sent
// (testdata/engine-frames.txt), and for TensorRT-LLM and Mooncake those of their
// sources.
package kvevents
