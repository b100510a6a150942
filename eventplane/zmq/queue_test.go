package zmq

import (
	"context"
	"errors"
	"testing"
)

// offer pushes an item if it is admitted, as a subscriber does.
func offer(q *queue, it item) {
	if q.admit(len(it.body)) {
		q.push(it)
	}
}

func TestQueueBounds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		held    []int // bytes of the items pushed
		kept    []uint64
		dropped uint64
	}{
		"items":                  {[]int{0, 0, 0, 0, 0}, []uint64{0, 1, 2}, 2},
		"bytes":                  {[]int{90, 10, 1}, []uint64{0, 1}, 1},
		"smaller ones still fit": {[]int{90, 11, 10}, []uint64{0, 2}, 1},
		"one beyond all bounds":  {[]int{1000, 1}, []uint64{0}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := newQueue(3, 100)
			for range 3 { // popped items make room
				before := q.dropped.Load()
				for i, n := range c.held {
					offer(q, item{sequence: uint64(i), body: make([]byte, n)})
				}
				if got := q.dropped.Load() - before; got != c.dropped {
					t.Errorf("%d dropped, want %d", got, c.dropped)
				}
				for _, want := range c.kept {
					if it, err := q.pop(t.Context()); err != nil || it.sequence != want {
						t.Errorf("got %d, %v, want %d", it.sequence, err, want)
					}
				}
			}
		})
	}
}

// Items that the reader has taken over and not returned yet still count.
func TestQueueCountsBothSides(t *testing.T) {
	t.Parallel()
	q := newQueue(2, 100)
	offer(q, item{})
	offer(q, item{})
	if _, err := q.pop(t.Context()); err != nil {
		t.Fatal(err)
	}
	offer(q, item{})
	offer(q, item{})
	if got := q.dropped.Load(); got != 1 {
		t.Errorf("%d dropped, want 1", got)
	}
}

func TestQueueEnds(t *testing.T) {
	t.Parallel()
	q := newQueue(1, defaultQueueBytes)
	offer(q, item{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.pop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := q.pop(t.Context()); err != nil {
		t.Errorf("after a cancelled one: %v", err)
	}
	offer(q, item{})
	want := errors.New("end")
	q.close(want)
	q.close(nil)
	if _, err := q.pop(t.Context()); !errors.Is(err, want) {
		t.Errorf("closed: %v, want %v", err, want)
	}
}

func BenchmarkQueue(b *testing.B) {
	q := newQueue(defaultQueueSize, defaultQueueBytes)
	b.ReportAllocs()
	for b.Loop() {
		offer(q, item{})
		if _, err := q.pop(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
