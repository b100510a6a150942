//go:build cgo && !nozmq

package zmq_test

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/zmtptest"
)

// TestIdlePublisherForgetsSubscribers has many subscribers that come and go while
// nothing is published. libzmq keeps their pipes until the socket is used.
func TestIdlePublisherForgetsSubscribers(t *testing.T) {
	t.Parallel()
	zmtptest.InChild(t, func() {
		pub := directPublisher(t, open(t, zmqdriver.Options{}))
		const subscribers, limit = 10_000, 64 << 20
		before := resident(t)
		for range subscribers {
			c := zmtptest.Dial(t, pub.Endpoint(), "SUB")
			if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
				t.Fatal(err)
			}
		}
		if got := resident(t) - before; got > limit {
			t.Errorf("%d subscribers that are gone cost %d MiB, want at most %d", subscribers, got>>20, limit>>20)
		}
	})
}

// resident returns the memory of this process in bytes.
func resident(t *testing.T) int {
	t.Helper()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
