package driver_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// offer pushes an item if it is admitted, as a driver does.
func offer(q *driver.Queue[int], item, size int) {
	if q.Admit(size) {
		q.Push(item, size)
	}
}

func TestQueueBounds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		overflow driver.Overflow
		sizes    []int
		kept     []int
	}{
		"newest: items":                  {driver.DropNewest, []int{0, 0, 0, 0, 0}, []int{0, 1, 2}},
		"newest: bytes":                  {driver.DropNewest, []int{90, 10, 1}, []int{0, 1}},
		"newest: smaller ones still fit": {driver.DropNewest, []int{90, 11, 10}, []int{0, 2}},
		"newest: one beyond all bounds":  {driver.DropNewest, []int{1000, 1}, []int{0}},
		"oldest: items":                  {driver.DropOldest, []int{0, 0, 0, 0, 0}, []int{2, 3, 4}},
		"oldest: bytes":                  {driver.DropOldest, []int{90, 10, 1}, []int{1, 2}},
		"oldest: several for one":        {driver.DropOldest, []int{40, 40, 90}, []int{2}},
		"oldest: one beyond all bounds":  {driver.DropOldest, []int{1, 1000, 1}, []int{2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := driver.NewQueue[int](driver.QueueOptions{Size: 3, Bytes: 100, Overflow: c.overflow})
			for range 50 { // popped items make room
				before := q.Dropped()
				for i, n := range c.sizes {
					offer(q, i, n)
				}
				if got, want := q.Dropped()-before, uint64(len(c.sizes)-len(c.kept)); got != want {
					t.Errorf("%d dropped: want %d", got, want)
				}
				var kept []int
				for it, ok, _ := q.TryPop(); ok; it, ok, _ = q.TryPop() {
					kept = append(kept, it)
				}
				if !slices.Equal(kept, c.kept) {
					t.Errorf("kept %v: want %v", kept, c.kept)
				}
			}
		})
	}
}

// Items are returned once and in order, or counted as dropped.
func TestQueueAccountsForEachItem(t *testing.T) {
	t.Parallel()
	for _, overflow := range []driver.Overflow{driver.DropOldest, driver.DropNewest, driver.Block} {
		q := driver.NewQueue[int](driver.QueueOptions{Size: 300, Bytes: 5000, Overflow: overflow})
		const sent = 50_000
		go func() {
			for i := range sent {
				if q.Wait(context.Background()) == nil {
					offer(q, i, rand.IntN(100))
				}
			}
			q.End(errors.New("end"))
		}()
		popped, last := 0, -1
		for {
			it, err := q.Pop(t.Context())
			if err != nil {
				break
			}
			if it <= last {
				t.Fatalf("%v: item %d after %d", overflow, it, last)
			}
			popped, last = popped+1, it
		}
		if uint64(popped)+q.Dropped() != sent || overflow == driver.Block && q.Dropped() != 0 {
			t.Errorf("%v: %d popped, %d dropped: want %d in all", overflow, popped, q.Dropped(), sent)
		}
	}
}

func TestQueueBlocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := driver.NewQueue[int](driver.QueueOptions{Size: 1, Bytes: 100, Overflow: driver.Block})
		waited := make(chan error, 1)
		wait := func() { waited <- q.Wait(t.Context()) }
		go wait()
		if err := <-waited; err != nil {
			t.Fatal(err)
		}
		offer(q, 1, 1)
		for _, c := range []struct {
			end     error
			release func()
		}{
			{nil, func() { _, _, _ = q.TryPop() }},
			{driver.ErrClosed, func() { q.Close(driver.ErrClosed) }},
		} {
			if c.end != nil {
				offer(q, 2, 1)
			}
			go wait()
			synctest.Wait()
			select {
			case err := <-waited:
				t.Fatalf("wait of a full queue returned %v", err)
			default:
			}
			c.release()
			if err := <-waited; !errors.Is(err, c.end) {
				t.Errorf("wait: %v: want %v", err, c.end)
			}
		}
	})
}

func TestQueueEnds(t *testing.T) {
	t.Parallel()
	q := driver.NewQueue[int](driver.QueueOptions{Size: 3, Bytes: 100})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.Pop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	end, closed := errors.New("end"), errors.New("closed")
	offer(q, 1, 0)
	offer(q, 2, 0)
	q.End(end)
	if it, err := q.Pop(t.Context()); err != nil || it != 1 {
		t.Errorf("%d, %v: want 1, which waited", it, err)
	}
	q.Close(closed)
	q.Close(nil)
	for range 2 {
		if _, err := q.Pop(t.Context()); !errors.Is(err, closed) {
			t.Errorf("%v: want %v", err, closed)
		}
	}
}

func TestQueueOptions(t *testing.T) {
	t.Parallel()
	got, err := driver.QueueOptions{}.WithDefaults()
	if want := (driver.QueueOptions{Size: 65_536, Bytes: 64 << 20, Overflow: driver.DropOldest}); err != nil || got != want {
		t.Errorf("%+v, %v: want %+v", got, err, want)
	}
	for _, o := range []driver.QueueOptions{{Size: -1}, {Bytes: -1}, {Overflow: -1}, {Overflow: driver.Block + 1}} {
		if _, err := o.WithDefaults(); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

func BenchmarkQueue(b *testing.B) {
	q := driver.NewQueue[int](driver.QueueOptions{Size: 100, Bytes: 100})
	b.ReportAllocs()
	for b.Loop() {
		offer(q, 1, 1)
		if _, err := q.Pop(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// TestControlItemsAreNotCounted also checks that they take no room from others.
func TestControlItemsAreNotCounted(t *testing.T) {
	t.Parallel()
	q := driver.NewQueue[string](driver.QueueOptions{Size: 2, Bytes: 10})
	q.PushControl("control")
	q.Push("first", 1)
	q.PushControl("too many")
	q.Push("second", 1)
	if got := q.Dropped(); got != 0 {
		t.Errorf("%d dropped after control items only, want 0", got)
	}
	q.Push("third", 1)
	for _, want := range []string{"second", "third"} {
		if got, _, _ := q.TryPop(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := q.Dropped(); got != 1 {
		t.Errorf("%d dropped, want 1", got)
	}
}

// A queue announces the first item that it drops of each publisher: before all others,
// or in the place of those that were not admitted. An item is its publisher times 100
// and its sequence; the announcement is its negative.
func TestQueueAnnouncesPublishersOfDroppedItems(t *testing.T) {
	t.Parallel()
	for overflow, want := range map[driver.Overflow][]int{
		driver.DropOldest: {-201, -100, 102, 103, 203, -300, 104},
		driver.DropNewest: {100, 101, 201, -300, -202, -102, 104},
	} {
		t.Run(overflow.String(), func(t *testing.T) {
			t.Parallel()
			q := driver.NewQueue[int](driver.QueueOptions{Size: 3, Bytes: 100, Overflow: overflow})
			q.Announce(func(item int) (publisher uint64, control int, ok bool) {
				return uint64(max(item, -item)) / 100, -max(item, -item), true
			})
			var got []int
			take := func(want int) {
				for range want {
					item, ok, err := q.TryPop()
					if !ok || err != nil {
						t.Fatalf("after %v: %v, %v", got, ok, err)
					}
					got = append(got, item)
				}
			}
			push := func(items ...int) {
				for _, item := range items {
					if q.Admit(1) {
						q.Push(item, 1)
					} else {
						q.Rejected(item)
					}
				}
			}
			push(100, 101, 201, 202, 102, 103, 203)
			q.PushControl(-300) // full: announced behind the others
			if overflow == driver.DropOldest {
				take(5)
			} else {
				take(3)
			}
			push(104)
			n := q.Len()
			take(n)
			sorted := func(s []int, from, to int) []int { slices.Sort(s[from:to]); return s }
			if overflow == driver.DropOldest {
				got = sorted(got, 0, 2)
			} else {
				got = sorted(got, 3, min(6, len(got)))
			}
			if !slices.Equal(got, want) || q.Len() != 0 {
				t.Errorf("%v, and %d: want %v", got, q.Len(), want)
			}
		})
	}
}
