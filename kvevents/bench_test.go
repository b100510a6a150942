package kvevents

import (
	"testing"

	"github.com/dynplane/dynplane/codec"
)

// BenchmarkEngine decodes a batch of 64 blocks of 16 tokens; sub-benchmark any is
// generic decoding, for comparison.
func BenchmarkEngine(b *testing.B) {
	payload := vllmBatch(64)
	b.Run("decoder", func(b *testing.B) {
		b.SetBytes(int64(len(payload)))
		b.ReportAllocs()
		var d Decoder
		for b.Loop() {
			if _, err := d.Engine(payload); err != nil {
				b.Fatal(err)
			}
			for e := range d.Events() {
				if len(e.Tokens) != 1024 {
					b.Fatal(e.Problem)
				}
			}
		}
	})
	b.Run("any", func(b *testing.B) {
		b.SetBytes(int64(len(payload)))
		b.ReportAllocs()
		for b.Loop() {
			var v any
			if err := codec.Msgpack.Unmarshal(payload, &v); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRouter decodes Dynamo's events, as BenchmarkEngine does.
func BenchmarkRouter(b *testing.B) {
	payload := routerPayload(b, 64)
	b.Run("decoder", func(b *testing.B) {
		b.SetBytes(int64(len(payload)))
		b.ReportAllocs()
		var d Decoder
		for b.Loop() {
			if _, err := d.Router(payload); err != nil {
				b.Fatal(err)
			}
			for e := range d.Events() {
				if len(e.Hashes) != 64 {
					b.Fatal(e.Problem)
				}
			}
		}
	})
	b.Run("any", func(b *testing.B) {
		b.SetBytes(int64(len(payload)))
		b.ReportAllocs()
		for b.Loop() {
			var v any
			if err := codec.Msgpack.Unmarshal(payload, &v); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkConvert converts an event of 64 blocks of 16 tokens to Dynamo's form and
// encodes it.
func BenchmarkConvert(b *testing.B) {
	var d Decoder
	if _, err := d.Engine(vllmBatch(64)); err != nil {
		b.Fatal(err)
	}
	var event Event
	for e := range d.Events() {
		event = e.Clone()
	}
	c := Converter{Worker: 9, BlockSize: 16}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = AppendRouterEvent(buf[:0], c.Convert(&event)); err != nil {
			b.Fatal(err)
		}
	}
}
