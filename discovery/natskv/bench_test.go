package natskv

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/natstest"
)

// fill writes n entries of the given size without leases.
func fill(b *testing.B, s *Store, n, bytes int) {
	b.Helper()
	if err := s.ensure(b.Context()); err != nil {
		b.Fatal(err)
	}
	scope := discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}
	for instance := range uint64(n) {
		in := discovery.Instance{InstanceID: instance, Spec: discovery.Endpoint{Scope: scope, Transport: discovery.TCP(strings.Repeat("x", bytes))}}
		value, err := json.Marshal(in)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.js.PublishAsync(s.opt.entrySubject(encodeKey(in.ID())), value, jetstream.WithStallWait(time.Minute)); err != nil {
			b.Fatal(err)
		}
		if instance%1000 == 999 { // no more at once than the server takes
			<-s.js.PublishAsyncComplete()
		}
	}
	<-s.js.PublishAsyncComplete()
}

// BenchmarkList compares a list with the watch of nats.go's KV API, which only
// counts its messages.
func BenchmarkList(b *testing.B) {
	for _, c := range []struct{ entries, bytes int }{{100, 300}, {30_000, 300}, {200, 100_000}} {
		name := fmt.Sprintf("%dx%dB", c.entries, c.bytes)
		s := openStore(b, natstest.Run(b).Connect(b), Options{Bucket: name, Memory: true})
		fill(b, s, c.entries, c.bytes)
		b.Run(name+"/list", func(b *testing.B) {
			client := discovery.NewClient(s, discovery.Options{})
			b.ReportAllocs()
			for b.Loop() {
				if list, err := client.List(b.Context(), discovery.Query{Kind: discovery.KindEndpoint}); err != nil || len(list) != c.entries {
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

// BenchmarkHeartbeats compares one round for 1,000 leases with as many plain
// publishes to the same subjects.
func BenchmarkHeartbeats(b *testing.B) {
	const n = 1000
	s := openStore(b, natstest.Run(b).Connect(b), Options{TTL: time.Hour})
	var leases []*lease
	for instance := range uint64(n) {
		l, err := s.Register(b.Context(), endpointID(instance), endpointValue(instance, "a"), discovery.RegisterOptions{})
		if err != nil {
			b.Fatal(err)
		}
		leases = append(leases, l.(*lease))
	}
	h, err := newHeartbeats(s)
	if err != nil {
		b.Fatal(err)
	}
	defer h.close()
	b.Run("round", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for _, l := range leases {
				if err := h.send(l, l.sequence(), time.Now()); err != nil {
					b.Fatal(err)
				}
			}
			for acked := 0; acked < n; {
				got, _ := h.collect(time.Time{}, time.Time{})
				acked += len(got)
				for _, beat := range got {
					if beat.err != nil {
						b.Fatal(beat.err)
					}
				}
				runtime.Gosched()
			}
		}
	})
	b.Run("raw-publish", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for _, l := range leases {
				m := l.leaseMsg(s.opt.TTL)
				if _, err := s.js.PublishMsgAsync(m); err != nil {
					b.Fatal(err)
				}
			}
			<-s.js.PublishAsyncComplete()
		}
	})
}
