//go:build cgo && !nozmq

package zmq

import (
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"

	zmq "github.com/pebbe/zmq4"
)

// message is what a publisher would send.
func message(topic string, body []byte) *frames {
	id := make([]byte, idSize)
	return &frames{count: frameCount, part: [frameCount][]byte{[]byte(topic), id, id, append(appendHeader(nil, len(body)), body...)}}
}

// Not parallel: it counts the bytes that are allocated, by anybody.
func TestOnlyKeptMessagesAreCopied(t *testing.T) {
	const size, runs = 3 << 20, 10
	junk := message("kv-events", make([]byte, size))
	junk.part[3][0] = 7
	long := message("kv-events", make([]byte, size))
	long.count++
	for name, c := range map[string]struct {
		frames    *frames
		room      int64 // bytes in the queue
		kept      int   // bytes of it, each time
		dropped   uint64
		malformed bool
	}{
		"kept":          {frames: message("kv-events", make([]byte, size)), room: runs * size, kept: size},
		"no room":       {frames: message("kv-events", make([]byte, size)), room: size - 1, dropped: runs},
		"other topic":   {frames: message("kv-events2", make([]byte, size)), room: runs * size},
		"wrong version": {frames: junk, room: runs * size, malformed: true},
		"five frames":   {frames: long, room: runs * size, malformed: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Subscriber{subject: "kv-events", queue: newQueue(100)}
			s.queue.maxBytes = c.room
			s.queue.push(item{}) // else a single message may exceed the bound
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range runs {
				s.take(c.frames)
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

// The body belongs to the receiver: nothing of it is libzmq's.
func TestOneAllocationPerEvent(t *testing.T) {
	m := message("kv-events", make([]byte, 256))
	s := &Subscriber{subject: "kv-events", queue: newQueue(1)}
	got := testing.AllocsPerRun(1000, func() {
		s.take(m)
		if it, ok := s.queue.take(); !ok || len(it.body) != 256 || cap(it.body) != 256 || &it.body[0] == &m.part[3][headerSize] {
			t.Fatalf("got %d bytes of %d", len(it.body), cap(it.body))
		}
	})
	if got != 1 {
		t.Errorf("%v allocations, want 1", got)
	}
}

func TestReceiverBatches(t *testing.T) {
	t.Parallel()
	zctx, err := zmq.NewContext()
	if err != nil {
		t.Fatal(err)
	}
	c := &Context{zctx: zctx}
	from, err1 := c.pair(func(s *zmq.Socket) error { return s.Bind("inproc://batches") })
	to, err2 := c.pair(func(s *zmq.Socket) error { return s.Connect("inproc://batches") })
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	r, err := newReceiver(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.close()
		if err := errors.Join(from.Close(), to.Close(), zctx.Term()); err != nil {
			t.Error(err)
		}
	})
	if r.each(func(f *frames) { t.Errorf("got %+v of nothing", f) }) {
		t.Error("there is more of nothing")
	}
	const messages = 250
	for i := range messages {
		n := i%6 + 1 // frames, some more than are kept
		for j := range n {
			flags := zmq.SNDMORE
			if j == n-1 {
				flags = 0
			}
			if _, err := from.SendBytes(binary.BigEndian.AppendUint16(nil, uint16(i*10+j))[:2*min(i%50, 1)], flags); err != nil {
				t.Fatal(err)
			}
		}
	}
	heard, batches := 0, 1
	check := func(f *frames) {
		if f.count != heard%6+1 {
			t.Errorf("message %d of %d frames, want %d", heard, f.count, heard%6+1)
		}
		for j, part := range f.part[:min(f.count, frameCount)] {
			if heard%50 == 0 && len(part) != 0 || heard%50 != 0 && int(binary.BigEndian.Uint16(part)) != heard*10+j {
				t.Errorf("message %d, frame %d: got %x", heard, j, part)
			}
		}
		heard++
	}
	for ; r.each(check); batches++ {
	}
	if heard != messages || batches != 3 {
		t.Errorf("heard %d in %d batches, want %d in 3", heard, batches, messages)
	}
}

func TestRawSocket(t *testing.T) {
	t.Parallel()
	for _, other := range []any{&struct{ ctx int }{}, &struct{ soc string }{}} {
		if _, err := rawSocket(other); err == nil || !strings.Contains(err.Error(), "has no field soc of type unsafe.Pointer") {
			t.Errorf("%T: got %v", other, err)
		}
	}
}

func BenchmarkTake(b *testing.B) {
	m := message("kv-events", make([]byte, 3<<20))
	for name, kept := range map[string]bool{"kept": true, "dropped": false} {
		b.Run(name, func(b *testing.B) {
			s := &Subscriber{subject: "kv-events", queue: newQueue(1)}
			b.ReportAllocs()
			for b.Loop() {
				s.take(m)
				if kept {
					s.queue.take()
				}
			}
		})
	}
}
