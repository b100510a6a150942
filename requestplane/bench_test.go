package requestplane

import (
	"context"
	"fmt"
	"testing"
)

// BenchmarkCall makes calls one after another, whose answers are one item: a few
// events, and the state of a worker with 700,000 blocks.
func BenchmarkCall(b *testing.B) {
	for _, size := range []int{200, 36 << 20} {
		b.Run(fmt.Sprintf("%d_bytes", size), func(b *testing.B) {
			server, err := NewServer(ServerOptions{Listen: "127.0.0.1:0"})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = server.Close() }()
			item := append([]byte{0xc6, byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)}, make([]byte, size)...)
			_, err = server.Handle(path, func(_ context.Context, _ *Request, send func([]byte) error) error { return send(item) })
			if err != nil {
				b.Fatal(err)
			}
			client, err := NewClient(ClientOptions{Listen: "127.0.0.1:0"})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = client.Close() }()
			b.SetBytes(int64(size))
			for b.Loop() {
				for got, err := range client.Call(b.Context(), server.Address(path), []byte{0xc0}, CallOptions{Codec: Msgpack}) {
					if err != nil || len(got) != len(item) {
						b.Fatalf("%d bytes, error %v", len(got), err)
					}
				}
			}
		})
	}
}
