package discovery

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/integration/natstest"
)

// fill writes n entries of so many bytes as a foreigner, without leases.
func fill(b *testing.B, s *JetStream, n, bytes int) {
	b.Helper()
	if err := s.ensure(b.Context()); err != nil {
		b.Fatal(err)
	}
	scope := Scope{"dynamo", "backend", "generate"}
	for instance := range uint64(n) {
		in := Instance{InstanceID: instance, Spec: Endpoint{Scope: scope, Transport: TCP(strings.Repeat("x", bytes))}}
		value, err := json.Marshal(in)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.js.PublishAsync(s.entrySubject(encodeKey(in.ID())), value, jetstream.WithStallWait(time.Minute)); err != nil {
			b.Fatal(err)
		}
		if instance%1000 == 999 { // no more at once than the server takes
			<-s.js.PublishAsyncComplete()
		}
	}
	<-s.js.PublishAsyncComplete()
}

// BenchmarkList lists beside the watch of nats.go's KV API, which only counts
// what it gets.
func BenchmarkList(b *testing.B) {
	for _, c := range []struct{ entries, bytes int }{{100, 300}, {30_000, 300}, {200, 100_000}} {
		name := fmt.Sprintf("%dx%dB", c.entries, c.bytes)
		s := openJetStream(b, natstest.Run(b).Connect(b), JetStreamOptions{Bucket: name, Memory: true})
		fill(b, s, c.entries, c.bytes)
		b.Run(name+"/list", func(b *testing.B) {
			client := NewClient(s, Options{})
			b.ReportAllocs()
			for b.Loop() {
				if list, err := client.List(b.Context(), Query{Kind: KindEndpoint}); err != nil || len(list) != c.entries {
					b.Fatalf("%d entries, %v", len(list), err)
				}
			}
		})
		b.Run(name+"/raw-kv-watch", func(b *testing.B) {
			kv := natstest.KV(b, s.nc, name)
			b.ReportAllocs()
			for b.Loop() {
				w, err := kv.WatchAll(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				n := 0
				for e := range w.Updates() {
					if e == nil {
						break
					}
					n++
				}
				if err := w.Stop(); err != nil || n != c.entries {
					b.Fatalf("%d entries, %v", n, err)
				}
			}
		})
	}
}

// BenchmarkHeartbeats is one round for 1000 leases, beside as many plain
// publishes to the same subjects.
func BenchmarkHeartbeats(b *testing.B) {
	const n = 1000
	s := openJetStream(b, natstest.Run(b).Connect(b), JetStreamOptions{TTL: time.Hour})
	var leases []*jetStreamLease
	for instance := range uint64(n) {
		l, err := s.Register(b.Context(), scriptID(instance), scriptValue(instance, "a"))
		if err != nil {
			b.Fatal(err)
		}
		leases = append(leases, l.(*jetStreamLease))
	}
	b.Run("round", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if lost, err := s.gather(b.Context(), s.beatAll()); len(lost) != 0 || err != nil {
				b.Fatalf("%d lost, %v", len(lost), err)
			}
		}
	})
	b.Run("raw-publish", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for _, l := range leases {
				m := l.leaseMsg()
				if _, err := s.js.PublishMsgAsync(m); err != nil {
					b.Fatal(err)
				}
			}
			<-s.js.PublishAsyncComplete()
		}
	})
}

// BenchmarkInstance decodes a card of 100 KB beside the library on the same
// bytes.
func BenchmarkInstance(b *testing.B) {
	model, err := NewModel(Scope{"ns", "comp", "ep"}, map[string]string{"display_name": "m", "template": strings.Repeat("x", 100_000)}, "")
	if err != nil {
		b.Fatal(err)
	}
	data, err := json.Marshal(Instance{InstanceID: 1, Spec: model})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("instance", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			var in Instance
			if err := json.Unmarshal(data, &in); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("library", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			var in modelJSON
			if err := json.Unmarshal(data, &in); err != nil {
				b.Fatal(err)
			}
		}
	})
}
