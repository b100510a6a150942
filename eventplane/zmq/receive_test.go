//go:build cgo && !nozmq

package zmq

import (
	"runtime"
	"testing"

	"github.com/dynplane/dynplane/eventplane/driver"
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
			s := &Subscriber{subject: "kv-events", queue: driver.NewQueue[item](driver.QueueOptions{Size: 100, Bytes: c.room, Overflow: driver.DropNewest})}
			s.queue.Push(item{}, 0) // because a single message may exceed the bound
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
			if got := s.queue.Dropped(); got != c.dropped {
				t.Errorf("%d dropped, want %d", got, c.dropped)
			}
			kept, malformed := 0, 0
			for it, ok, _ := s.queue.TryPop(); ok; it, ok, _ = s.queue.TryPop() {
				kept += len(it.body)
				if it.malformed != nil {
					malformed++
				}
			}
			if kept != runs*c.kept || c.malformed && malformed != runs {
				t.Errorf("%d bytes kept, %d messages malformed: want %d, and %d if malformed", kept, malformed, runs*c.kept, runs)
			}
		})
	}
}

// TestOneAllocationPerEvent also checks that the body is a copy: it belongs to
// the receiver.
func TestOneAllocationPerEvent(t *testing.T) {
	m := message("kv-events", make([]byte, 256))
	s := &Subscriber{subject: "kv-events", queue: driver.NewQueue[item](driver.QueueOptions{Size: 1, Bytes: driver.DefaultQueueBytes, Overflow: driver.DropNewest})}
	got := testing.AllocsPerRun(1000, func() {
		s.enqueue(m)
		if it, ok, _ := s.queue.TryPop(); !ok || len(it.body) != 256 || cap(it.body) != 256 || &it.body[0] == &m.Frames[3][headerSize] {
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
			s := &Subscriber{subject: "kv-events", queue: driver.NewQueue[item](driver.QueueOptions{Size: 1, Bytes: driver.DefaultQueueBytes, Overflow: driver.DropNewest})}
			b.ReportAllocs()
			for b.Loop() {
				s.enqueue(m)
				if kept {
					_, _, _ = s.queue.TryPop()
				}
			}
		})
	}
}
