//go:build cgo && !nozmq

package zmq

import (
	"testing"
	"testing/synctest"

	"github.com/dynplane/dynplane/internal/wait"
)

// TestDrainWaitsForRoom drains for a queue that stays full: others can use the socket
// during the pauses, and nothing is attempted between them.
func TestDrainWaitsForRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reads, pauses := 0, 0
		l := &socketLoop{read: func() bool { reads++; return true }}
		l.pause = func() {
			if !l.mu.TryLock() {
				t.Error("the lock is held during a pause")
				return
			}
			l.mu.Unlock()
			pauses++
			_ = wait.Sleep(t.Context(), drainTime/4)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.drain()
		if reads > 5 || pauses < reads-1 {
			t.Errorf("read %d times with %d pauses, want 5 times at most with a pause between two", reads, pauses)
		}
		l.stopped.Store(true)
		reads = 0
		l.drain()
		if reads != 1 {
			t.Errorf("read %d times after the end of the loop, want once", reads)
		}
	})
}
