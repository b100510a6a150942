//go:build cgo && !nozmq

package broker_test

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/internal/zmtptest"
)

// TestSmallMessagesCostLittleMemory has a subscriber that does not read, and a
// publisher whose messages for it arrive among others, one in each buffer of
// libzmq. They must not hold these buffers, which have 8 KiB.
func TestSmallMessagesCostLittleMemory(t *testing.T) {
	t.Parallel()
	zmtptest.InChild(t, func() {
		const messages, limit = 40_000, 64 << 20
		b, _ := start(t, broker.Options{})
		defer rawSubscriber(t, b, []byte{0, 2, 1, 'x'}).Close() // subscribes to x
		pub := zmtptest.Dial(t, b.XSubEndpoint(), "PUB")
		before := resident(t)
		frames := slices.Concat([]byte{0, 100, 'x'}, make([]byte, 99), []byte{2, 0, 0, 0, 0, 0, 0, 31, 0}, make([]byte, 31<<8))
		for range messages {
			if _, err := pub.Write(frames); err != nil {
				t.Fatal(err)
			}
		}
		waittest.Eventually(t, "all messages are relayed", func() bool { return b.Stats().Messages >= 2*messages })
		if got := resident(t) - before; got > limit {
			t.Errorf("%d messages of 100 bytes cost %d MiB, want at most %d", messages, got>>20, limit>>20)
		}
	})
}

// resident returns the memory of this process in bytes.
func resident(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`VmRSS:\s*(\d+) kB`).FindSubmatch(status)
	if match == nil {
		t.Fatalf("no VmRSS in %q", status)
	}
	kib, err := strconv.Atoi(string(match[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
