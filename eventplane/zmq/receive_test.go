//go:build cgo && !nozmq

package zmq

import (
	"runtime"
	"testing"

	"github.com/dynplane/dynplane/internal/rawzmq"
)

// message returns a well-formed message.
func message(topic string, body []byte) *rawzmq.Message {
	id := make([]byte, idSize)
	return &rawzmq.Message{Count: frameCount, Frames: [frameCount][]byte{[]byte(topic), id, id, append(appendHeader(nil, len(body)), body...)}}
}

// TestOnlyKeptMessagesAreCopied is not parallel: it counts the bytes that the
// process allocates.
func TestOnlyKeptMessagesAreCopied(t *testing.T) {
	const size, runs = 3 << 20, 10
	junk := message("kv-events", make([]byte, size))
	junk.Frames[3][0] = 7
	long := message("kv-events", make([]byte, size))
	long.Count++
	for name, c := range map[string]struct {
		message   *rawzmq.Message
		room      int // bytes in the queue
		kept      int // bytes of it, each time
		dropped   uint64
		malformed bool
	}{
		"kept":          {message: message("kv-events", make([]byte, size)), room: runs * size, kept: size},
		"no room":       {message: message("kv-events", make([]byte, size)), room: size - 1, dropped: runs},
		"other topic":   {message: message("kv-events2", make([]byte, size)), room: runs * size},
		"wrong version": {message: junk, room: runs * size, malformed: true},
		"five frames":   {message: long, room: runs * size, malformed: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Subscriber{subject: "kv-events", queue: newQueue(100, c.room)}
			s.queue.push(item{}) // because a single message may exceed the bound
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range runs {
				s.enqueue(c.message)
			}
			runtime.ReadMemStats(&after)
			allocated, most := after.TotalAlloc-before.TotalAlloc, uint64(runs*c.kept+size/2)
			if allocated > most {
				t.Errorf("%d bytes allocated, want %d at most", allocated, most)
			}
			if got := s.queue.dropped.Load(); got != c.dropped {
				t.Errorf("%d dropped, want %d", got, c.dropped)
			}
			if got := s.queue.bytes.Load(); got != int64(runs*c.kept) {
				t.Errorf("%d bytes kept, want %d", got, runs*c.kept)
			}
			if waiting := s.queue.waiting[1:]; c.malformed && (len(waiting) != runs || waiting[0].malformed == nil) {
				t.Errorf("got %+v, want %d malformed messages", waiting, runs)
			}
		})
	}
}

// TestOneAllocationPerEvent also checks that the body is a copy: it belongs to
// the receiver.
func TestOneAllocationPerEvent(t *testing.T) {
	m := message("kv-events", make([]byte, 256))
	s := &Subscriber{subject: "kv-events", queue: newQueue(1, defaultQueueBytes)}
	got := testing.AllocsPerRun(1000, func() {
		s.enqueue(m)
		if it, ok := s.queue.tryPop(); !ok || len(it.body) != 256 || cap(it.body) != 256 || &it.body[0] == &m.Frames[3][headerSize] {
			t.Fatalf("got %d bytes of %d", len(it.body), cap(it.body))
		}
	})
	if got != 1 {
		t.Errorf("%v allocations, want 1", got)
	}
}

func BenchmarkEnqueue(b *testing.B) {
	m := message("kv-events", make([]byte, 3<<20))
	for name, kept := range map[string]bool{"kept": true, "dropped": false} {
		b.Run(name, func(b *testing.B) {
			s := &Subscriber{subject: "kv-events", queue: newQueue(1, defaultQueueBytes)}
			b.ReportAllocs()
			for b.Loop() {
				s.enqueue(m)
				if kept {
					s.queue.tryPop()
				}
			}
		})
	}
}
