package eventplane

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/internal/wait"
)

// Publishers that came and went leave nothing, except for those whose events are
// still on their way.
func TestDepartedPublishersAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, s, mu, queued := newFollowTest(t), newSequencer(false), &sync.Mutex{}, 0
		d := &departures{queued: func() int { return queued }}
		f.follow.departures = d
		f.follow.start()
		defer f.follow.stop()
		defer d.end()
		d.attach(s, mu)
		add := func(id, seq uint64) {
			mu.Lock()
			defer mu.Unlock()
			s.add(arrival(id, seq, seq), 8)
			s.next()
		}
		remain := func(after time.Duration, want int) {
			t.Helper()
			f.must(wait.Sleep(t.Context(), after))
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if got, _ := s.publishers(0); len(got) != want {
				t.Fatalf("%d publishers remain: want %d", len(got), want)
			}
		}
		const publishers = 1000
		for id := range uint64(publishers) {
			f.add(id, scope, endpoint("a"))
			add(id, 7)
		}
		f.add(1, below, endpoint("below")) // of another scope
		f.remove(1)                        // the channel below
		synctest.Wait()
		remain(10*leaveDelay, publishers)

		f.held[1] = nil
		for id := range uint64(publishers) {
			if id != 1 {
				f.remove(id)
			}
		}
		synctest.Wait()
		f.add(2, scope, endpoint("a")) // returns
		remain(leaveDelay, publishers)
		add(3, 9) // was on its way, with a gap
		remain(leaveDelay, 4-1)
		mu.Lock()
		queued = 1
		mu.Unlock()
		remain(10*leaveDelay, 3)
		mu.Lock()
		queued = 0
		mu.Unlock()
		remain(3*leaveDelay, 2)
		if s.stampBytes != 2*8*minStamps || d.left != nil || d.timer != nil {
			t.Errorf("%d bytes, %d departures remain: want those of 2 publishers", s.stampBytes, len(d.left))
		}
	})
}

// The first events of a publisher that has left already may wait for a reader that is
// busy.
func TestDepartedPublishersAreListedWhileTheReaderIsBusy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		queued := 100
		d := &departures{queued: func() int { return queued }}
		d.attach(newSequencer(false), &mu)
		defer d.end()
		d.enter(7, "")
		d.leave(7)
		for _, tc := range []struct {
			queued int
			after  time.Duration
			listed bool
		}{
			{100, 10 * leaveDelay, true},
			{0, leaveDelay, true},
			{0, 2 * leaveDelay, false},
		} {
			mu.Lock()
			queued = tc.queued
			mu.Unlock()
			if err := wait.Sleep(t.Context(), tc.after); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if d.lists(7) != tc.listed {
				t.Errorf("%d messages wait, %v later: listed is %v", tc.queued, tc.after, !tc.listed)
			}
		}
	})
}

// A publisher may be registered again while its departure is being forgotten.
func TestPublisherReturnsWhileItIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		d := &departures{queued: func() int { return 0 }}
		d.attach(newSequencer(false), &mu)
		defer d.end()
		d.enter(7, "")
		d.leave(7)
		d.left[7] = departure{looked: true}
		d.mu.Lock() // look is running
		entered := make(chan struct{})
		go func() { d.enter(7, ""); close(entered) }()
		for range 1000 {
			runtime.Gosched() // enter does all that it can do without the mutex
		}
		d.forget()
		d.mu.Unlock()
		<-entered
		if !d.lists(7) {
			t.Error("publisher 7 is registered, but not listed")
		}
	})
}

// A broker that was away delivers events of a publisher that has left meanwhile.
func TestDepartedPublishersAreNotDeliveredTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, mu := newSequencer(true), &sync.Mutex{}
		d := &departures{queued: func() int { return 0 }}
		defer d.end()
		d.attach(s, mu)
		d.enter(1, "")
		deliver := func() (n int) {
			mu.Lock()
			defer mu.Unlock()
			for seq := range uint64(100) {
				s.add(arrival(1, seq, seq), 8)
				if _, ok := s.next(); ok {
					n++
				}
			}
			return n
		}
		if n := deliver(); n != 100 {
			t.Fatalf("%d events were delivered: want 100", n)
		}
		d.leave(1)
		if err := wait.Sleep(t.Context(), 10*leaveDelay); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s.stampBytes != 0 || d.lists(1) {
			t.Errorf("%d bytes of the publisher remain, listed: %v", s.stampBytes, d.lists(1))
		}
		if n := deliver(); n != 0 || s.stats.duplicates != 100 {
			t.Errorf("%d events were delivered twice, %d are duplicates: want 0 and 100", n, s.stats.duplicates)
		}
	})
}

// A publisher whose lease expired continues its sequences when it is registered again.
func TestPublisherReturnsAfterItWasForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, mu := newSequencer(false), &sync.Mutex{}
		d := &departures{queued: func() int { return 0 }}
		defer d.end()
		d.attach(s, mu)
		d.enter(7, "")
		s.add(arrival(7, 0, 1000), 8)
		drain(s)
		d.leave(7)
		if err := wait.Sleep(t.Context(), 10*leaveDelay); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(s.peers) != 0 {
			t.Fatalf("%d publishers remain: want none", len(s.peers))
		}
		d.enter(7, "")
		s.control(7, 50, 1049)
		s.add(arrival(7, 50, 1050), 8)
		if got := drain(s); len(got) != 1 || got[0] != "50(49)" {
			t.Errorf("delivered %v: want 50, with 49 missed", got)
		}
	})
}
