//go:build cgo && !nozmq

package zmq_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestManySubscribers opens more subscribers than fit into the 1,023 sockets that
// libzmq allows by default. All of them receive.
func TestManySubscribers(t *testing.T) {
	t.Parallel()
	zc := open(t, zmqdriver.Options{})
	pub := directPublisher(t, zc)
	subs := make([]*zmqdriver.Subscriber, 300)
	for i := range subs {
		subs[i] = subscribe(t, zc, "kv-events")
		connect(t, subs[i], pub.Endpoint())
	}
	for i, sub := range subs {
		waittest.Eventually(t, fmt.Sprintf("subscriber %d receives", i), func() bool {
			if err := pub.Publish(t.Context(), &driver.Message{Subject: "kv-events"}); err != nil {
				t.Fatal(err)
			}
			_, err := next(t, sub, 50*time.Millisecond)
			return err == nil
		})
	}
}

// TestLongestSubject has a subscription as long as publishers accept it.
func TestLongestSubject(t *testing.T) {
	t.Parallel()
	zc, subject := open(t, zmqdriver.Options{}), strings.Repeat("x", 4068)
	pub, sub := directPublisher(t, zc), subscribe(t, zc, subject)
	connect(t, sub, pub.Endpoint())
	waittest.Eventually(t, "a message is received", func() bool {
		if err := pub.Publish(t.Context(), &driver.Message{Subject: subject}); err != nil {
			t.Fatal(err)
		}
		_, err := next(t, sub, 50*time.Millisecond)
		return err == nil
	})
}
