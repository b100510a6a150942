package kvstate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"testing"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/kvevents"
)

// benchPlane sends events of many publishers in turn, each with one block.
type benchPlane struct {
	payloads [][]byte
	begin    chan struct{} // closed when all ranks are live
	ids      []int         // offset of the event's id in each payload
	next     int
	left     int
}

var errEnd = errors.New("end of the benchmark")

func (p *benchPlane) Ready(context.Context) error { return nil }

func (p *benchPlane) Next(ctx context.Context) (eventplane.Event, error) {
	if err := ctx.Err(); err != nil {
		return eventplane.Event{}, err
	}
	select {
	case <-p.begin:
	case <-ctx.Done():
		return eventplane.Event{}, ctx.Err()
	}
	if p.left == 0 {
		return eventplane.Event{}, errEnd
	}
	p.left--
	i := p.next % len(p.payloads)
	id := p.payloads[i][p.ids[i]:]
	binary.BigEndian.PutUint32(id, uint32(p.next/len(p.payloads))+1<<16)
	p.next++
	return eventplane.Event{Envelope: codec.Envelope{PublisherID: uint64(i) + 1, Payload: p.payloads[i]}}, nil
}

// BenchmarkFollow is the cost of an event in the follower, of 1,000 publishers.
func BenchmarkFollow(b *testing.B) {
	const workers = 1000
	const first = 1 << 16
	p := &benchPlane{begin: make(chan struct{}), left: b.N}
	members := []discovery.Event{}
	for i := range uint64(workers) {
		w := newFakeWorker(i+1, i+1)
		members = append(members, discovery.Event{Type: discovery.Added, Instance: w.source(b, true)})
		payload := encodeEvents([]kvevents.Event{{
			Kind: kvevents.Stored, Worker: i + 1, Rank: kvevents.Some(uint32(0)), ID: first,
			Medium: "device", Parent: kvevents.Some(uint64(1) << 60), Hashes: []uint64{i << 40}, TokensHashes: []uint64{^i},
		}})
		p.payloads = append(p.payloads, payload)
		p.ids = append(p.ids, bytes.Index(payload, []byte{0xce, 0, 1, 0, 0})+1) // first, as msgpack
	}
	answerQuery := func(context.Context, target, kvevents.StateQuery) (kvevents.StateAnswer, error) {
		return kvevents.StateAnswer{Kind: kvevents.AnswerTreeDump, LastID: first - 1}, nil
	}
	watch := func(ctx context.Context) iter.Seq2[discovery.Event, error] {
		return func(yield func(discovery.Event, error) bool) {
			for _, ev := range members {
				if !yield(ev, nil) {
					return
				}
			}
			<-ctx.Done()
		}
	}
	live, changes := 0, 0
	f := newFollower(p, answerQuery, FollowOptions{}, func(u Update, _ error) bool {
		if u.Kind == TrustChanged && u.Trust == Live {
			if live++; live == workers {
				b.ReportAllocs()
				b.ResetTimer()
				close(p.begin)
			}
		}
		if u.Kind == Change {
			for e := range u.Events {
				changes += len(e.Hashes)
			}
		}
		return true
	})
	start := time.Now()
	if err := f.run(b.Context(), watch); !errors.Is(err, errEnd) {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "events/s")
	if changes != b.N {
		b.Errorf("%d changes, want %d", changes, b.N)
	}
}
