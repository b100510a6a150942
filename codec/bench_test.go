package codec_test

import (
	"encoding/json"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dynplane/dynplane/codec"
)

// rawEnvelope is the envelope as a struct, for the bare libraries.
type rawEnvelope struct {
	PublisherID uint64          `msgpack:"publisher_id" json:"publisher_id"`
	Sequence    uint64          `msgpack:"sequence" json:"sequence"`
	PublishedAt uint64          `msgpack:"published_at" json:"published_at"`
	Topic       string          `msgpack:"topic" json:"topic"`
	Payload     []byte          `msgpack:"payload" json:"payload,omitempty"`
	Event       json.RawMessage `msgpack:"-" json:"event,omitempty"`
}

// kilobyte is an event of about 1 KB as JSON.
func kilobyte(b *testing.B) []byte {
	b.Helper()
	event, err := codec.JSON.Append(nil, storedEvent(10))
	if err != nil {
		b.Fatal(err)
	}
	return event
}

func BenchmarkEnvelope(b *testing.B) {
	payload := kilobyte(b)
	env := codec.Envelope{PublisherID: 1 << 52, Sequence: 1 << 20, PublishedAt: 1795000000000, Topic: "kv-events", Payload: payload}
	raw := rawEnvelope{PublisherID: 1 << 52, Sequence: 1 << 20, PublishedAt: 1795000000000, Topic: "kv-events", Payload: payload}
	opaque, rawEvent := env, raw
	opaque.Bytes = true
	rawEvent.Payload, rawEvent.Event = nil, payload

	for _, c := range []struct {
		name    string
		env     *codec.Envelope
		codec   codec.Codec
		raw     *rawEnvelope
		encode  func(any) ([]byte, error)
		decode  func([]byte, any) error
		library string
	}{
		{"msgpack", &env, codec.Msgpack, &raw, msgpack.Marshal, msgpack.Unmarshal, "library"},
		{"json/event", &env, codec.JSON, &rawEvent, json.Marshal, json.Unmarshal, "library"},
		{"json/bytes", &opaque, codec.JSON, &raw, json.Marshal, json.Unmarshal, "library"},
	} {
		wire, err := c.env.Append(nil, c.codec)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.name+"/encode/ours", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				wire, _ = c.env.Append(wire[:0], c.codec)
			}
		})
		b.Run(c.name+"/encode/library", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.encode(c.raw)
			}
		})
		b.Run(c.name+"/decode/ours", func(b *testing.B) {
			b.ReportAllocs()
			var back codec.Envelope
			for b.Loop() {
				if err := back.Decode(wire); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(c.name+"/decode/library", func(b *testing.B) {
			b.ReportAllocs()
			var back rawEnvelope
			for b.Loop() {
				if err := c.decode(wire, &back); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// One event with 512 block hashes.
func BenchmarkEvent(b *testing.B) {
	event := storedEvent(512)
	for _, c := range []struct {
		codec  codec.Codec
		encode func(any) ([]byte, error)
		decode func([]byte, any) error
	}{
		{codec.Msgpack, msgpack.Marshal, msgpack.Unmarshal},
		{codec.JSON, json.Marshal, json.Unmarshal},
	} {
		wire, err := c.codec.Append(nil, event)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.codec.Name()+"/encode/ours", func(b *testing.B) {
			b.ReportAllocs()
			buf := wire
			for b.Loop() {
				buf, _ = c.codec.Append(buf[:0], event)
			}
		})
		b.Run(c.codec.Name()+"/encode/library", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.encode(event)
			}
		})
		// The library gets what it wrote, which without the json tags has
		// other names.
		raw, err := c.encode(event)
		if err != nil {
			b.Fatal(err)
		}
		for name, decode := range map[string]func(*routerEvent) error{
			"ours":    func(ev *routerEvent) error { return c.codec.Unmarshal(wire, ev) },
			"library": func(ev *routerEvent) error { return c.decode(raw, ev) },
		} {
			b.Run(c.codec.Name()+"/decode/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					var ev routerEvent
					if err := decode(&ev); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	wire, err := codec.Msgpack.Append(nil, storedEvent(512))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	var text []byte
	for b.Loop() {
		text, _ = codec.AppendJSON(text[:0], wire)
	}
}
